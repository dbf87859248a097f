from __future__ import annotations

import json
from typing import Any

import pytest

from supervised.errors import DataError

TURNS = [{"question": f"q{number}?", "answer": f"a{number}"} for number in range(1, 6)]


def test_form_a_asks_every_turn_after_the_earlier_ones(folder: Any) -> None:
    folder.json("avsd_val.json", {"YSKX3": {"data": TURNS, "script": "not to be read", "summary": "nor this"}})
    folder.media("Charades_v1_480/YSKX3.mp4")
    found = folder.run("avsd", history=2)
    assert [found[f"avsd-val-YSKX3-{number}"].question for number in (1, 2, 5)] == [
        "q1?",
        "Earlier: Q: q1? A: a1 Now: q2?",
        "Earlier: Q: q3? A: a3 Q: q4? A: a4 Now: q5?",
    ]
    assert found["avsd-val-YSKX3-5"].answers == ("a5",)
    assert {(sample.group, sample.type, sample.metric) for sample in found.values()} == {
        ("charades-YSKX3", "Dialogue", "bleu")
    }


def test_without_history_the_question_stands_alone(folder: Any) -> None:
    folder.json("avsd_val.json", {"YSKX3": {"data": TURNS}})
    folder.media("YSKX3.mp4")
    assert folder.run("avsd", history=0)["avsd-val-YSKX3-5"].question == "q5?"


def test_form_b_asks_only_the_last_turn_of_a_test_dialogue(folder: Any) -> None:
    hidden = [*TURNS[:4], {"question": "q5?", "answer": "__UNDISCLOSED__"}]
    dialogs = [{"image_id": "AAAAA", "dialog": TURNS, "caption": "c"}, {"image_id": "BBBBB", "dialog": hidden}]
    folder.json("test_set4DSTC7-AVSD.json", {"type": "test", "dialogs": dialogs})
    folder.json("valid_set4DSTC7-AVSD.json", {"dialogs": [{"image_id": "CCCCC", "dialog": TURNS}]})
    folder.media("AAAAA.mp4", "BBBBB.mp4", "CCCCC.mp4")
    found = folder.run("avsd", history=1)
    assert [name for name in found if "-test-" in name] == ["avsd-test-AAAAA-5"]
    assert sum("-val-" in name for name in found) == 5
    assert folder.report.reasons == {"answer not published": 1}


@pytest.mark.parametrize(
    "content",
    [{"data": {"questions": [], "answers": [], "dialogs": []}, "split": "val", "version": "1.0"}, [], {"v": [1]}],
)
def test_a_file_of_another_form_is_refused(folder: Any, content: Any) -> None:
    folder.json("avsd_val.json", content)
    with pytest.raises(DataError, match=r"avsd_val\.json: neither .* files with answer options are derived ones"):
        folder.run("avsd")


def test_numbers_in_the_place_of_answers_are_refused(folder: Any) -> None:
    folder.json("avsd_val.json", {"dialogs": [{"image_id": "A", "dialog": [{"question": 3, "answer": 17}]}]})
    with pytest.raises(DataError, match="dialogue 1, turn 1: the answer is a number; this is a derived file"):
        folder.run("avsd")


def test_a_dialogue_without_turns_or_video_is_named(folder: Any) -> None:
    folder.json(
        "avsd_val.json", {"dialogs": [{"image_id": "A", "dialog": TURNS[:1]}, {"image_id": "A"}, {"dialog": TURNS}]}
    )
    folder.media("A.mp4")
    with pytest.raises(DataError, match="dialogue 2, turn 1: key 'dialog' is missing"):
        folder.run("avsd")
    assert list(folder.run("avsd", on_error="skip")) == ["avsd-val-A-1"]
    assert folder.report.reasons == {"missing key": 6}


def test_a_dialogue_that_stands_twice_or_has_a_doubled_key_is_named(folder: Any) -> None:
    folder.media("A.mp4", "B.mp4")
    turns = json.dumps(TURNS[:1])
    folder.json("avsd_val.json", f'{{"A": {{"data": {turns}}}, "B": {{"data": {turns}}}, "B": {{"data": {turns}}}}}')
    with pytest.raises(DataError, match="dialogue 2, turn 1: dialogue 'B' stands twice in this file; keep one"):
        folder.run("avsd")
    assert list(folder.run("avsd", on_error="skip")) == ["avsd-val-A-1"]
    assert folder.report.reasons == {"doubled id": 1}
    dialogs = f'[{{"image_id": "A", "dialog": {turns}}}, {{"image_id": "B", "image_id": "B", "dialog": {turns}}}]'
    folder.json("avsd_val.json", f'{{"dialogs": {dialogs}}}')
    with pytest.raises(DataError, match="dialogue 2, turn 1: key 'image_id' stands twice in the object; keep one"):
        folder.run("avsd")
    assert list(folder.run("avsd", on_error="skip")) == ["avsd-val-A-1"]


def test_two_files_for_a_split_are_not_guessed_between(folder: Any) -> None:
    for name in ("avsd_val.json", "valid_set4DSTC7-AVSD.json"):
        folder.json(name, {"A": {"data": TURNS}})
    with pytest.raises(DataError, match=r"split 'val' has two files, .*avsd_val\.json and .*; keep one, or give"):
        folder.run("avsd")
