from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.metrics import vqa
from supervised.metrics.vqa import vqa_accuracy

REAL = Path(__file__).parents[4] / "shared" / "data" / "vizwiz_vqa_format" / "val_annotations.json"


def by_the_formula(prediction: str, answers: list[str]) -> float:
    """The score as the evaluation's page describes it, written character by character; the table is shared."""

    def clean(text: str) -> str:
        merge = any(a.isdigit() and b == "," and c.isdigit() for a, b, c in zip(text, text[1:], text[2:], strict=False))
        kept = ""
        for character in text:
            if character in ";/[]{}()=+_-<>@`,?!\\" + '"':
                alone = character + " " in text or " " + character in text
                kept += "" if merge or alone else " "
            else:
                kept += character
        removed, result = 0, ""
        for place, character in enumerate(kept):
            if character == "." and removed < 32 and not kept[place + 1 : place + 2].isdecimal():
                removed += 1
            else:
                result += character
        numbers = "zero one two three four five six seven eight nine ten".split()
        words = []
        for word in result.lower().split():
            number = "0" if word == "none" else str(numbers.index(word)) if word in numbers else word
            if number not in ("a", "an", "the"):
                words.append(vqa._CONTRACTIONS.get(number, number))
        return " ".join(words)

    texts = [" ".join(text.replace("\t", "\n").split("\n")).strip() for text in (prediction, *answers)]
    if len(set(texts[1:])) > 1:
        texts = [clean(text) for text in texts]
    said, accepted = texts[0], texts[1:]
    others = [accepted[:place] + accepted[place + 1 :] for place in range(10)]
    return sum(min(1.0, rest.count(said) / 3) for rest in others) / 10


MARKED = st.text(alphabet="ab3., -'!?/\n(1", max_size=12) | st.sampled_from(
    ["two", "dont", "the dog", "1,000 a-b", "wouldn'tve", "u.s.", "3.5", "none", "A_b"]
)


@given(prediction=MARKED, answers=st.lists(MARKED, min_size=3, max_size=3), counts=st.permutations([5, 3, 2]))
def test_the_score_is_that_of_the_formula(prediction: str, answers: list[str], counts: list[int]) -> None:
    given = [answer for answer, count in zip(answers, counts, strict=True) for _ in range(count)]
    for said in (prediction, *answers):
        assert vqa_accuracy(said, given) == pytest.approx(by_the_formula(said, given), abs=1e-12)


RULES: dict[str, tuple[Callable[[list[str]], str], float]] = {
    "first": (lambda given: given[0], 73.51),
    "last, with marks": (lambda given: f"The {given[-1].replace(' ', '-')}.", 67.09),
    "capitals": (lambda given: given[4].upper(), 68.41),
    "one word": (lambda given: "unanswerable", 52.12),
}
"""Predictions made of the ten answers, and what the official evaluation (a013f00) prints for them."""


@pytest.mark.skipif(not REAL.is_file(), reason="needs the VizWiz validation annotations in the VQA format")
@pytest.mark.parametrize("name", RULES)
def test_the_official_evaluation_prints_the_same_on_vizwiz(name: str) -> None:
    rows = json.loads(REAL.read_text(encoding="utf-8"))["annotations"]
    assert len(rows) == 4_319
    rule, official = RULES[name]
    answers = [[each["answer"] for each in row["answers"]] for row in rows]
    scores = [vqa_accuracy(rule(given), given) for given in answers]
    assert round(100 * sum(scores) / len(scores), 2) == official
    assert scores == pytest.approx([by_the_formula(rule(given), given) for given in answers], abs=1e-12)


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
