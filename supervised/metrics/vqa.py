"""The soft accuracy of VQAv2 against ten annotators, as the official evaluation computes it.

Source: GT-Vision-Lab/VQA at a013f00, `vqaEval.py`, with its quirks, so that figures are comparable. In particular
nothing is normalised, not even case, when the ten agree: `Yes` against ten times `yes` scores 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ANNOTATORS = 10

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d", re.ASCII)
_PERIOD = re.compile(r"\.(?!\d)", re.ASCII)
_MOST_PERIODS = 32
"""The official call passes a flag of this value in the place of a count."""
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the mean over the annotators of min(1, matches among the others / 3), official at a013f00."""
    predicted = _flatten(prediction)
    accepted = [_flatten(answer) for answer in answers]
    if len(set(accepted)) > 1:
        predicted = _words(_punctuation(predicted))
        accepted = [_words(_punctuation(answer)) for answer in accepted]
    hits = [answer == predicted for answer in accepted]
    # Leaving out an annotator who agreed leaves one match less. Integers until the end: 9 x 1/3 is then exactly 3.
    thirds = sum(min(3, sum(hits) - hit) for hit in hits)
    return thirds / (3 * len(hits))


def _flatten(text: str) -> str:
    """Line breaks and tabs become spaces, then strip: what the official evaluation always does."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str) -> str:
    """Remove or blank punctuation, as `processPunctuation` does.

    A mark is deleted when it touches a space anywhere in the original text, or when the text holds digit-comma-digit
    anywhere; otherwise it becomes a space. Periods go unless a digit follows.
    """
    number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if touches_space or number else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def _words(text: str) -> str:
    """Lower-case, write number words as digits, drop articles, restore apostrophes, as `processDigitArticle` does."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _contractions() -> dict[str, str]:
    """Return misspelt contraction -> contraction, with exactly the gaps and oddities of the official table.

    The rule: a contraction is recognised with all its apostrophes missing or, where it has two, with one missing.
    """
    one = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll
        how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
        shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're
        there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd
        where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're
        you've"""
    two = """couldn't've hadn't've he'd've it'd've mightn't've shouldn't've she'd've somebody'd've someone'd've
        something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've"""
    table = {word.replace("'", ""): word for word in one.split()}
    for word in two.split():
        start, middle, end = word.split("'")
        table |= {f"{start}{middle}'{end}": word, f"{start}'{middle}{end}": word}
    # Irregular entries; identities and capitalised keys, which can never change anything, are left out.
    return table | {
        "somebody'd": "somebodyd",
        "ow's'at": "'ow's'at",
        "'ows'at": "'ow's'at",
        "'ow'sat": "'ow's'at",
        "yall'd've": "y'all'd've",
        "y'alld've": "y'all'd've",
        "y'all'dve": "y'all'd've",
    }


_CONTRACTIONS = _contractions()
