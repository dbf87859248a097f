from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.answers import find_metric, score, score_sample, target_answer
from supervised.data.sample import Sample
from supervised.errors import DataError


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


@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=10, max_size=10))
def test_any_ten_answers_give_a_score_that_ten_annotators_can_give(prediction: str, answers: list[str]) -> None:
    assert score(prediction, answers) in (0.0, 0.3, 0.6, 0.9, 1.0)


@pytest.mark.parametrize("count", [0, 2, 9, 11])
def test_other_numbers_of_answers_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"takes 1 accepted answer or 10, or any .* 'bleu', got {count}; correct"):
        score("yes", ["yes"] * count)


@pytest.mark.parametrize(
    ("prediction", "answers", "metric", "choices", "expected"),
    [
        ("Red_car.", ["red car"], None, (), 1.0),
        ("Red car.", ["red car"], "gqa", (), 0.0),  # GQA knows no final period
        ("RED car ", ["red car"], "gqa", (), 1.0),
        ("(b)", ["dog"], None, ("cat", "dog"), 1.0),
        ("(b)", ["dog"], "exact", ("cat", "dog"), 0.0),
        ("yes.", ["yes"] * 10, None, (), 0.0),
        ("yes.", ["yes"] * 9 + ["no"], "vqa", (), 1.0),
        ("a dog barks", ["a dog barks", "dogs"], "bleu", (), 1.0),
    ],
)
def test_a_question_is_scored_by_the_metric_it_names_or_by_that_of_its_form(
    prediction: str, answers: list[str], metric: str | None, choices: tuple[str, ...], expected: float
) -> None:
    assert score(prediction, answers, metric, choices) == expected
    sample = Sample("q", "what?", tuple(answers), metric=metric, choices=choices)
    assert score_sample(prediction, sample) == expected


@pytest.mark.parametrize(
    ("answers", "metric", "choices", "message"),
    [
        (["a"], "cider", (), "metric 'cider' is unknown; allowed: exact, gqa, vqa, choice, bleu, or null"),
        (["a", "b"], "gqa", (), "metric 'gqa' takes 1, got 2; correct the answers"),
        (["a"], "vqa", (), "metric 'vqa' takes 10, got 1; correct the answers"),
        ([], "bleu", (), "metric 'bleu' takes 1 or more, got 0; correct the answers"),
        (["owl"], None, ("cat", "dog"), r"answer 'owl' is not among the options \['cat', 'dog'\]"),
        (["owl"], "choice", (), r"answer 'owl' is not among the options \[\]"),
        (["a"] * 10, None, ("a", "b"), "takes 1 accepted answer or 10, .* got 10"),
    ],
)
def test_answers_that_do_not_fit_the_metric_are_refused(
    answers: list[str], metric: str | None, choices: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_metric(answers, metric, choices)


def test_the_most_frequent_answer_is_trained_on_and_the_first_of_equals() -> None:
    assert target_answer(["red", "blue", "blue"]) == "blue"
    assert target_answer(["red", "blue"]) == "red"
