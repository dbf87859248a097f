from __future__ import annotations

import json
import re
from typing import Any

import pytest

from supervised.answers import find_metric
from supervised.errors import DataError

ROW = {
    "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
    "entailed": ["02930160"],
    "equivalent": ["02930152"],
    "question": "Is the sky dark?",
    "imageId": "2354786",
    "isBalanced": True,
    "groups": {"global": None, "local": "06-sky_dark"},
    "answer": "yes",
    "semanticStr": "select: sky (2486325)->verify color: dark [0]",
    "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {"2": "2486325"}},
    "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
    "fullAnswer": "Yes, the sky is dark.",
}


def test_a_question_keeps_its_structural_type_and_its_own_metric(folder: Any) -> None:
    folder.json("testdev_balanced_questions.json", {"02930152": ROW})
    folder.media("images/2354786.jpg")
    sample = folder.run("gqa")["gqa-02930152"]
    assert (sample.question, sample.answers, sample.type) == ("Is the sky dark?", ("yes",), "verify")
    assert (sample.retention_set, sample.group, sample.split) == ("gqa", "visualgenome-2354786", "test")
    assert find_metric(sample.answers, sample.metric) == "gqa"


def test_the_shards_of_train_all_are_merged(folder: Any) -> None:
    for shard in range(3):
        folder.json(f"train_all_questions/train_all_questions_{shard}.json", {f"{shard}": ROW})
    folder.media("images/2354786.jpg")
    found = folder.run("gqa", variant="all")
    assert set(found) == {"gqa-0", "gqa-1", "gqa-2"}
    assert len({sample.split for sample in found.values()}) == 1  # one picture, one split


def test_an_id_in_two_shards_and_an_empty_folder_are_refused(folder: Any) -> None:
    (folder.root / "train_all_questions").mkdir()
    with pytest.raises(DataError, match="train_all_questions holds no JSON file; unpack"):
        folder.run("gqa", variant="all")
    for shard in range(2):
        folder.json(f"train_all_questions/train_all_questions_{shard}.json", {"7": ROW})
    folder.media("images/2354786.jpg")
    with pytest.raises(DataError, match=r"questions_1\.json, question 7: id 'gqa-7' stands twice"):
        folder.run("gqa", variant="all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "key 'answer' is missing"),
        ({"types": {"structural": "guess"}}, "type 'guess' is unknown; allowed: verify, query"),
        ({"types": {"detailed": "x"}}, "key 'structural' is missing"),
        ({"imageId": "9"}, "no picture or video '9'"),
    ],
)
def test_a_faulty_question_is_named(folder: Any, change: Any, message: str) -> None:
    folder.json("val_balanced_questions.json", {"1": ROW, "2": ROW | change})
    folder.media("images/2354786.jpg")
    with pytest.raises(DataError, match=rf"val_balanced_questions\.json, question 2: {re.escape(message)}"):
        folder.run("gqa")
    assert list(folder.run("gqa", on_error="skip")) == ["gqa-1"]


def test_a_question_that_stands_twice_in_a_file_is_refused(folder: Any) -> None:
    folder.json("val_balanced_questions.json", '{"1": {}, "1": {}}')
    message = r"val_balanced_questions\.json, question 1: question '1' stands twice in this file; keep one"
    with pytest.raises(DataError, match=message):
        folder.run("gqa")
    rows = ", ".join(f'"{name}": {json.dumps(ROW)}' for name in (1, 2, 2, 3))
    folder.json("val_balanced_questions.json", f"{{{rows}}}")
    folder.media("images/2354786.jpg")
    assert set(folder.run("gqa", on_error="skip")) == {"gqa-1", "gqa-3"}
    assert folder.report.reasons == {"doubled id": 1}
