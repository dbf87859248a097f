"""Accuracy per type of question and per family of types, as MUSIC-AVQA reports it.

A type is `Family/Kind`, e.g. `Audio-Visual/Counting`; the nine of MUSIC-AVQA are listed here. Families and the whole
are micro averages, every question weighing the same (GeWu-Lab/MUSIC-AVQA, `main_avst.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supervised.errors import DataError
from supervised.metrics.exact import exact_match, nearest_class

MUSIC_AVQA_TYPES = (
    "Audio/Counting",
    "Audio/Comparative",
    "Visual/Counting",
    "Visual/Location",
    "Audio-Visual/Existential",
    "Audio-Visual/Counting",
    "Audio-Visual/Location",
    "Audio-Visual/Comparative",
    "Audio-Visual/Temporal",
)


@dataclass(frozen=True)
class TypedAccuracy:
    """Means of scores in [0, 1]."""

    overall: float
    families: dict[str, float]
    """Micro average per family: what stands before the first `/` of a type."""
    types: dict[str, float]
    counts: dict[str, int]
    """Questions per type."""


def accuracy_by_type(scores: Sequence[float], types: Sequence[str]) -> TypedAccuracy:
    """Return the mean of the scores, overall, per family and per type; names are sorted.

    >>> accuracy_by_type([1, 0, 1], ["Audio/Counting", "Audio/Counting", "Visual/Location"]).families
    {'Audio': 0.5, 'Visual': 1.0}

    Raises:
        DataError: there is no score, or not one type per score.
    """
    if len(scores) != len(types) or not len(scores):
        raise DataError(f"accuracy needs one type per score, got {len(scores)} scores and {len(types)} types.")
    values = np.asarray(scores, dtype=np.float64)  # (n,)
    means = {}
    for level, names in (("family", [name.split("/", 1)[0] for name in types]), ("type", list(types))):
        found, places = np.unique(np.array(names, dtype=object), return_inverse=True)
        numbers = np.bincount(places)
        means[level] = dict(zip(found.tolist(), (np.bincount(places, values) / numbers).tolist(), strict=True))
    counts = dict(zip(found.tolist(), numbers.tolist(), strict=True))
    return TypedAccuracy(float(values.mean()), means["family"], means["type"], counts)


def music_avqa_accuracy(
    predictions: Sequence[str], answers: Sequence[str], types: Sequence[str], classes: Sequence[str]
) -> dict[str, TypedAccuracy]:
    """Return MUSIC-AVQA's accuracies: `strict`, by exact match, and `mapped`, predictions put into a class first.

    Args:
        predictions: What a model said, one per question.
        answers: What is right.
        types: Nine in all, `MUSIC_AVQA_TYPES`.
        classes: The closed set of answers, 42 in the whole data set; a prediction that means none is wrong.

    Raises:
        DataError: a type is not one of the nine, or the numbers of the arguments differ.
    """
    if not len(predictions) == len(answers) == len(types):
        raise DataError(
            f"accuracy needs one answer and one type per prediction, got {len(predictions)} predictions, "
            f"{len(answers)} answers and {len(types)} types."
        )
    unknown = sorted(set(types) - set(MUSIC_AVQA_TYPES))
    if unknown:
        raise DataError(f"types {unknown} are not of MUSIC-AVQA; allowed: {', '.join(MUSIC_AVQA_TYPES)}.")
    pairs = list(zip(predictions, answers, strict=True))
    mapped = [exact_match(nearest_class(said, classes) or "", right) for said, right in pairs]
    return {
        "strict": accuracy_by_type([exact_match(said, right) for said, right in pairs], types),
        "mapped": accuracy_by_type(mapped, types),
    }
