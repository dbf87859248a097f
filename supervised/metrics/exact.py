"""Whether a prediction is the one accepted answer: exact match, GQA's match, multiple choice.

Never a substring: `no` stands in `piano`, and `one` in `saxophone`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_OPTION = re.compile(r"\(?([a-z])\)?\s*(?:[.):]\s*|\s+|$)(.*)", re.DOTALL)
"""A letter, in brackets or before a mark, and what follows it."""
_NUMBERS = {
    str(number): word
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}


def normalise(text: str) -> str:
    """Lower-case, strip, turn underscores into spaces and remove one final period.

    >>> normalise(" Acoustic_guitar. ")
    'acoustic guitar'
    """
    return text.lower().strip().replace("_", " ").removesuffix(".").strip()


def exact_match(prediction: str, answer: str) -> float:
    """Return 1 if both are equal after `normalise`, else 0: the accuracy of MUSIC-AVQA."""
    return float(normalise(prediction) == normalise(answer))


def gqa_match(prediction: str, answer: str) -> float:
    """Return 1 if both are equal in lower case, outer spaces aside, else 0: the accuracy of GQA (Hudson, Manning 2019).

    The official script compares the strings as they are; its answers are in lower case.
    """
    return float(prediction.strip().lower() == answer.strip().lower())


def choice_match(prediction: str, answer: str, choices: Sequence[str]) -> float:
    """Return 1 if the prediction names the option that is the answer, else 0: the accuracy of AVQA.

    An option is named by its text, by its letter (`b`, `(B)`, `b.`), or by both when they belong together. Texts come
    first: an option that reads `a` is not the first one.

    >>> [choice_match(said, "dog", ["cat", "dog", "car", "rain"]) for said in ("Dog.", "(b)", "B. dog", "B. cat")]
    [1.0, 1.0, 1.0, 0.0]
    """
    texts, right = [normalise(choice) for choice in choices], normalise(answer)
    said = normalise(prediction)
    if said in texts or said == right:
        return float(said == right)
    found = _OPTION.fullmatch(prediction.strip().lower())
    if found is None:
        return 0.0
    place, text = ord(found[1]) - ord("a"), normalise(found[2])
    return float(place < len(texts) and texts[place] == right and text in ("", right))


def nearest_class(prediction: str, classes: Sequence[str]) -> str | None:
    """Return the class of a closed set that a prediction means, or None.

    Equal after `normalise`; else with its articles dropped and its digits written as words, as closed sets write them.

    >>> nearest_class("A violin.", ["violin", "two"]), nearest_class("2", ["violin", "two"])
    ('violin', 'two')
    """
    known = {normalise(name): name for name in reversed(classes)}  # of equals the first
    said = normalise(prediction)
    words = " ".join(_NUMBERS.get(word, word) for word in said.split() if word not in ("a", "an", "the"))
    return known.get(said, known.get(words))
