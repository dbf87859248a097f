from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.metrics.exact import choice_match, exact_match, gqa_match, nearest_class, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Two.", "two"), ("  acoustic_guitar ", "acoustic guitar"), ("U.S.", "u.s"), ("yes . ", "yes"), ("", "")],
)
def test_normalising_lowers_strips_blanks_underscores_and_drops_one_final_period(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(max_size=20))
def test_normalising_twice_changes_at_most_another_period(text: str) -> None:
    once = normalise(text)
    assert once == once.strip()
    assert "_" not in once
    assert normalise(once).rstrip(". ") == once.rstrip(". ")
    assert exact_match(text, once) == float(normalise(once) == once)


def test_gqa_compares_in_lower_case_and_drops_nothing() -> None:
    assert gqa_match(" Left", "left") == 1.0
    assert gqa_match("left.", "left") == 0.0
    assert gqa_match("to the left", "left") == 0.0


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("dog", 1.0),
        ("Dog.", 1.0),
        ("B", 1.0),
        ("b.", 1.0),
        ("(b)", 1.0),
        ("B) dog", 1.0),
        ("b: Dog.", 1.0),
        ("B dog", 1.0),
        ("B. cat", 0.0),  # letter and text of two options
        ("a", 0.0),
        ("A. dog", 0.0),
        ("e", 0.0),  # no such option
        ("dogs", 0.0),
        ("barking dog", 0.0),
        ("big dog", 0.0),  # begins with a letter of an option, but names none
        ("", 0.0),
    ],
)
def test_an_option_is_named_by_text_by_letter_or_by_both(prediction: str, expected: float) -> None:
    assert choice_match(prediction, "dog", ["cat", "dog", "a car", "rain"]) == expected


def test_the_text_of_an_option_comes_before_its_letter() -> None:
    assert choice_match("a", "A", ["B", "A"]) == 1.0
    assert choice_match("b", "A", ["B", "A"]) == 0.0


def test_an_option_that_stands_twice_is_right_twice() -> None:
    assert [choice_match(said, "dog", ["dog", "cat", "dog"]) for said in ("a", "b", "c")] == [1.0, 0.0, 1.0]


@given(st.lists(st.sampled_from(["cat", "dog", "car", "rain", "sea"]), min_size=1, max_size=5, unique=True), st.data())
def test_each_option_is_right_for_itself_alone(choices: list[str], data: st.DataObject) -> None:
    right = data.draw(st.sampled_from(choices))
    for place, choice in enumerate(choices):
        for said in (choice, "abcde"[place], f"({'abcde'[place]}) {choice}"):
            assert choice_match(said, right, choices) == float(choice == right)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Violin", "violin"),
        ("the electric bass.", "electric_bass"),
        ("2", "two"),
        ("Two.", "two"),
        ("more than 10", "more than ten"),
        ("violins", None),
        ("", None),
    ],
)
def test_a_prediction_is_put_into_the_class_it_means(prediction: str, expected: str | None) -> None:
    assert nearest_class(prediction, ["violin", "electric_bass", "two", "more than ten"]) == expected
