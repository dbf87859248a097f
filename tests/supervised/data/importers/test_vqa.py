from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from supervised.errors import DataError

REAL = Path(__file__).parents[5] / "shared" / "data" / "vizwiz_vqa_format"
TEN = ["net", "net", "net", "netting", "net", "net", "mesh", "net", "Net", "net"]
QUESTION = {"question": "What is this photo taken looking through?", "image_id": 458752, "question_id": 458752000}
ANNOTATION: dict[str, Any] = {
    "question_id": 458752000,
    "image_id": 458752,
    "question_type": "what",
    "answer_type": "other",
    "multiple_choice_answer": "net",
    "answers": [{"answer": said, "answer_confidence": "maybe", "answer_id": i} for i, said in enumerate(TEN, 1)],
}


def write(folder: Any, questions: list[Any], annotations: list[Any]) -> None:
    folder.json("v2_OpenEnded_mscoco_val2014_questions.json", {"info": {}, "questions": questions})
    folder.json("v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": annotations})


def test_question_and_annotation_are_joined_by_id_and_the_ten_answers_kept_as_they_are(folder: Any) -> None:
    second = QUESTION | {"question_id": 1, "question": "Is it day?"}
    yes = ANNOTATION | {"question_id": 1, "answer_type": "yes/no", "answers": [{"answer": "yes", "answer_id": 1}] * 10}
    write(folder, [QUESTION, second], [yes, ANNOTATION])
    folder.media("images/val2014/COCO_val2014_000000458752.jpg")
    found = folder.run("vqav2")
    sample = found["vqav2-458752000"]
    assert (sample.question, sample.answers) == (QUESTION["question"], tuple(TEN))
    assert (sample.retention_set, sample.type, sample.group, sample.audio) == ("vqav2", "other", "coco-458752", None)
    assert (found["vqav2-1"].type, found["vqav2-1"].answers) == ("yes/no", ("yes",) * 10)
    assert {sample.split for sample in found.values()} == {"test"}
    assert folder.report.retention_sets == {"vqav2": 2}


@pytest.mark.parametrize(
    "name", ["val2014/COCO_val2014_000000458752.jpg", "COCO_val2014_000000458752.jpg", "images/000000458752.jpg"]
)
def test_a_picture_is_found_by_each_of_its_usual_names(folder: Any, name: str) -> None:
    write(folder, [QUESTION], [ANNOTATION])
    folder.media(name)
    assert folder.run("vqav2")["vqav2-458752000"].image == folder.root / "out" / ".." / name


@pytest.mark.parametrize(
    ("question", "annotation", "kind", "message"),
    [
        ({}, {"answers": ANNOTATION["answers"][:9]}, "not ten answers", "question 1 needs 10 answers, has 9"),
        ({}, {"answers": [{"answer_id": 1}] * 10}, "not ten answers", "question 1 needs 10 answers"),
        ({}, {"image_id": 7}, "pictures differ", "question 1 has image_id 458752, its annotation another"),
        ({}, {"answer_type": "colour"}, "unknown type", "type 'colour' is unknown; allowed: yes/no, number, other"),
        ({"question": ""}, {}, "blank text", "'question' is blank"),
        ({"image_id": 7}, {"image_id": 7}, "picture missing", "'val2014/COCO_val2014_000000000007.jpg'"),
        ({"image_id": "x"}, {"image_id": "x"}, "wrong type", "image_id must be a whole number, got 'x'"),
    ],
)
def test_a_faulty_question_is_named_or_skipped_and_counted(
    folder: Any, question: Any, annotation: Any, kind: str, message: str
) -> None:
    write(
        folder,
        [QUESTION, QUESTION | {"question_id": 1} | question],
        [ANNOTATION, ANNOTATION | {"question_id": 1} | annotation],
    )
    folder.media("val2014/COCO_val2014_000000458752.jpg")
    with pytest.raises(DataError, match=rf"questions\.json, question 2: .*{re.escape(message)}"):
        folder.run("vqav2")
    assert list(folder.run("vqav2", on_error="skip")) == ["vqav2-458752000"]
    assert folder.report.reasons == {kind: 1}


def test_questions_and_annotations_without_each_other_or_twice_are_named(folder: Any) -> None:
    other = [{"question_id": number} for number in (1, 2, 3)]
    write(folder, [QUESTION, QUESTION | other[0], QUESTION | other[1]], [ANNOTATION, *[ANNOTATION | other[1]] * 2])
    folder.media("val2014/COCO_val2014_000000458752.jpg")
    with pytest.raises(DataError, match="question 2: no annotation has question_id 1; the files do not match"):
        folder.run("vqav2")
    folder.run("vqav2", on_error="skip")
    assert folder.report.reasons == {"question without annotation": 1, "doubled id": 1}
    write(folder, [QUESTION], [ANNOTATION, ANNOTATION | other[2]])
    with pytest.raises(DataError, match=r"annotations\.json, question_id 3: no question has this question_id"):
        folder.run("vqav2")


def test_a_question_that_stands_twice_is_named_as_such(folder: Any) -> None:
    write(folder, [QUESTION, QUESTION], [ANNOTATION])
    folder.media("val2014/COCO_val2014_000000458752.jpg")
    with pytest.raises(DataError, match=r"question 2: question_id 458752000 stands twice among the questions; remove"):
        folder.run("vqav2")
    assert list(folder.run("vqav2", on_error="skip")) == ["vqav2-458752000"]
    assert folder.report.reasons == {"doubled id": 1}


@pytest.mark.parametrize(
    ("number", "kind"), [([], "wrong type"), ({"a": 1}, "wrong type"), (None, "missing key"), ("\ud83d", "broken text")]
)
def test_an_id_that_is_none_is_named_on_either_side(folder: Any, number: Any, kind: str) -> None:
    folder.media("val2014/COCO_val2014_000000458752.jpg")
    bad = {"question_id": number}
    for asked, answered, place in (
        ([QUESTION, QUESTION | bad], [ANNOTATION], r"questions\.json, question 2"),
        ([QUESTION], [ANNOTATION, ANNOTATION | bad], r"annotations\.json, annotation 2"),
    ):
        write(folder, asked, answered)
        with pytest.raises(DataError, match=rf"{place}: (key )?'question_id' "):
            folder.run("vqav2")
        assert list(folder.run("vqav2", on_error="skip")) == ["vqav2-458752000"]
        assert folder.report.reasons == {kind: 1}


def test_questions_without_a_file_of_annotations_are_refused(folder: Any) -> None:
    folder.json("v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [QUESTION]})
    with pytest.raises(DataError, match=r"split 'val' has no file under .*; looked for v2_mscoco_val2014_annotations"):
        folder.run("vqav2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"questions": {}}', "expected a list under 'questions', got dict"),
        ('{"questions": [], "questions": []}', "key 'questions' stands twice at the top"),
        ("[", r"line 1: not valid JSON \(Expecting value\)"),
        ('{"questions": ' + "[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_a_file_that_is_not_the_datasets_is_refused(folder: Any, text: str, message: str) -> None:
    write(folder, [], [])
    folder.json("v2_OpenEnded_mscoco_val2014_questions.json", text)
    with pytest.raises(DataError, match=rf"val2014_questions\.json.*({message})"):
        folder.run("vqav2")


def test_a_file_in_another_encoding_is_refused(folder: Any) -> None:
    write(folder, [], [ANNOTATION])
    (folder.root / "v2_OpenEnded_mscoco_val2014_questions.json").write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(DataError, match=r"val2014_questions\.json: not UTF-8"):
        folder.run("vqav2")


def test_vizwiz_has_pictures_by_name_and_a_type_of_its_own(folder: Any) -> None:
    name = "VizWiz_val_00000000.jpg"
    folder.json("val_questions.json", {"questions": [{"question": "?", "image_id": name, "question_id": 0}]})
    answers = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10
    annotation = {"question_id": 0, "image_id": name, "question_type": "unanswerable", "answers": answers}
    folder.json("val_annotations.json", {"annotations": [annotation]})
    folder.media(f"val/{name}")
    sample = folder.run("vizwiz")["vizwiz-0"]
    assert (sample.type, sample.retention_set, sample.group) == ("unanswerable", "vizwiz", f"vizwiz-{name}")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="VizWiz' files are not beside the checkout")
def test_the_real_files_of_vizwiz_give_all_their_questions(folder: Any) -> None:
    for name in ("val_questions.json", "val_annotations.json"):
        folder.json(name, (REAL / name).read_text(encoding="utf-8"))
    asked = json.loads((REAL / "val_questions.json").read_text(encoding="utf-8"))["questions"]
    folder.media(*(f"val/{row['image_id']}" for row in asked))
    found = folder.run("vizwiz")
    assert len(found) == 4319
    assert folder.report.types == {"other": 2691, "unanswerable": 1385, "yes/no": 195, "number": 48}
    assert {len(sample.answers) for sample in found.values()} == {10}
    assert not folder.report.left_out
