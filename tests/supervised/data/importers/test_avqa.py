from __future__ import annotations

import re
from typing import Any

import pytest

from supervised.answers import score_sample
from supervised.errors import DataError

ROW = {
    "id": 183,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What is making the sound?",
    "multi_choice": ["dog", "cat", "car", "rain"],
    "answer": 1,
    "question_relation": "Both",
    "question_type": "Come From",
}


def test_the_answer_is_the_text_of_the_choice_and_its_letter_counts_as_well(folder: Any) -> None:
    folder.json("val_qa.json", [ROW])
    folder.media("videos/-HG3Omg_89c_000030.mp4")
    sample = folder.run("avqa")["avqa-val-183"]
    assert sample.question == "What is making the sound? Options: A. dog; B. cat; C. car; D. rain."
    assert (sample.answers, sample.choices) == (("cat",), ("dog", "cat", "car", "rain"))
    assert [score_sample(said, sample) for said in ("Cat.", "b", "dog", "A")] == [1, 1, 0, 0]
    assert (sample.type, sample.group, sample.split) == ("Both/Come From", "youtube--HG3Omg_89c", "test")


@pytest.mark.parametrize("filling", [[None, None], ["NULL", ""], []])
def test_choices_that_only_fill_up_are_not_offered(folder: Any, filling: list[Any]) -> None:
    row = ROW | {"multi_choice": ["dog", "cat", *filling], "question_type": "UsedFor"}
    del row["id"], row["question_relation"]
    folder.json("data/annotation/val_qa.json", [row])
    folder.media("videos/-HG3Omg_89c_000030.mp4")
    sample = folder.run("avqa")["avqa-val--HG3Omg_89c_000030#1"]
    assert sample.question.endswith("Options: A. dog; B. cat.")
    assert sample.type == "Used For"


def test_videos_of_the_training_split_are_shared_out_by_the_video_and_val_is_tested_on(folder: Any) -> None:
    names = [f"{number:011d}_000010" for number in range(400)]
    folder.json("train_qa.json", [ROW | {"id": i, "video_name": names[i // 2]} for i in range(800)])
    folder.json("val_qa.json", [ROW | {"video_name": names[0]}, ROW | {"id": 1, "video_name": "x_000000"}])
    folder.media(*(f"videos/{name}.mp4" for name in [*names, "x_000000"]))
    found = folder.run("avqa")
    assert found["avqa-val-1"].split == "test"
    assert folder.report.reasons.total() == 2  # the questions of the first video, which val keeps
    counts = folder.report.splits
    assert counts["test"] == 2
    shares = {"adapter": 0.5, "train": 0.3, "validation": 0.1, "calibration": 0.1}
    assert {name: counts[name] / 798 for name in shares} == pytest.approx(shares, abs=0.08)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"answer": 4}, "answer out of range", "answer 4 is not the position of a choice; allowed: 0 to 3"),
        ({"answer": -1}, "answer out of range", "answer -1 is not"),
        ({"answer": True}, "wrong type", "'answer' must be the position of a choice, got true"),
        ({"multi_choice": ["dog", None]}, "answer out of range", "not one that is null"),
        ({"multi_choice": ["dog", 3]}, "wrong type", "a choice must be a text or null, got 3"),
        ({"multi_choice": ["cat", "Cat "]}, "doubled choice", "the right choice 'Cat' stands twice"),
        ({"question_type": "How"}, "unknown type", "type 'How' is unknown; allowed: Which, Come From"),
        ({"question_relation": "Smell"}, "unknown relation", "relation 'Smell' is unknown"),
        ({"question_text": " "}, "blank text", "'question_text' is blank"),
        ({"video_name": "y_000000"}, "picture missing", "no picture or video 'y_000000'"),
    ],
)
def test_a_faulty_row_is_named_or_skipped_and_counted(folder: Any, change: Any, kind: str, message: str) -> None:
    folder.json("val_qa.json", [ROW, ROW | {"id": 2} | change])
    folder.media("videos/-HG3Omg_89c_000030.mp4")
    with pytest.raises(DataError, match=rf"val_qa\.json, row 2: .*{re.escape(message)}"):
        folder.run("avqa")
    assert list(folder.run("avqa", on_error="skip")) == ["avqa-val-183"]
    assert folder.report.reasons == {kind: 1}
