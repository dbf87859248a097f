from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.answers import normalise, score, target_answer, vqa_accuracy
from supervised.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Two.", "two"), ("  acoustic_guitar ", "acoustic guitar"), ("U.S.", "u.s"), ("yes . ", "yes"), ("", "")],
)
def test_normalising_lowers_strips_blanks_underscores_and_drops_one_final_period(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("Acoustic guitar.", "acoustic_guitar", 1.0),
        ("piano", "no", 0.0),  # never a substring
        ("no piano", "no", 0.0),
        ("2", "two", 0.0),  # the closed sets of exact-match data know one spelling
        ("", "two", 0.0),
    ],
)
def test_one_answer_is_scored_by_exact_match(prediction: str, answer: str, expected: float) -> None:
    assert score(prediction, [answer]) == expected


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_ten_answers_are_scored_by_the_mean_over_leave_one_out_sets(matches: int, expected: float) -> None:
    assert score("dog", ["dog"] * matches + ["cat"] * (10 - matches)) == expected


@pytest.mark.parametrize("prediction", ["Yes", "yes.", "the yes"])
def test_nothing_is_normalised_when_the_ten_agree(prediction: str) -> None:
    assert vqa_accuracy(prediction, ["yes"] * 10) == 0.0
    assert vqa_accuracy(prediction, ["yes"] * 9 + ["no"]) == 1.0


def test_unanimous_answers_still_lose_line_breaks_and_outer_spaces() -> None:
    assert vqa_accuracy(" yes\n", ["yes\t"] * 10) == 1.0


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("two", "2"),
        ("none", "0"),
        ("A dog", "dog"),
        ("the dog and an owl", "dog and owl"),
        ("t-shirt", "t shirt"),  # a mark that touches no space becomes one
        ("t- shirt", "t shirt"),  # a mark that touches a space is deleted
        ("yes / no", "yes no"),
        ("1,000", "1000"),  # digit, comma, digit: deleted
        ("a-b 1,000", "ab 1000"),  # ... and then every other mark is deleted as well
        ("red,blue", "red blue"),
        ("u.s.", "us"),
        ("3.5", "3.5"),  # a period before a digit stays, whatever stands in front of it
        ("v.2", "v.2"),
        ("dont", "don't"),
        ("wouldntve", "wouldntve"),  # the official table has no entry without both apostrophes
        ("wouldn'tve", "wouldn't've"),
        ("somebody'd", "somebodyd"),  # the official table is reversed here
        ("Im", "im"),  # its capitalised keys never match a lowered word
        ("9:30", "9:30"),  # neither a colon nor an apostrophe is a mark
        ("." * 32, "."),  # at most 32 periods go
    ],
)
def test_golden_spellings_are_equal_where_annotators_differ(prediction: str, answer: str) -> None:
    assert vqa_accuracy(prediction, [answer] * 9 + ["zebra"]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [("t-shirt", "tshirt"), ("Im", "I'm"), ("3.5", "35"), ("9:30", "930"), ("eleven", "11"), ("." * 33, ".")],
)
def test_golden_spellings_stay_different(prediction: str, answer: str) -> None:
    assert vqa_accuracy(prediction, [answer] * 9 + ["zebra"]) == 0.0


@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=10, max_size=10))
def test_any_ten_answers_give_a_score_that_ten_annotators_can_give(prediction: str, answers: list[str]) -> None:
    assert score(prediction, answers) in (0.0, 0.3, 0.6, 0.9, 1.0)


@pytest.mark.parametrize("count", [0, 2, 9, 11])
def test_other_numbers_of_answers_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"takes 1 accepted answer or 10, got {count}; correct"):
        score("yes", ["yes"] * count)


def test_the_most_frequent_answer_is_trained_on_and_the_first_of_equals() -> None:
    assert target_answer(["red", "blue", "blue"]) == "blue"
    assert target_answer(["red", "blue"]) == "red"
