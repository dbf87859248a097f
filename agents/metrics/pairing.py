"""Two policies question by question: decisions of both go in, differences with intervals and McNemar's test come out.

Intervals that overlap do not mean that policies are equal: both answer the same questions, so most of the noise cancels
in the difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.evaluation import Evaluation
from agents.metrics.resamples import interval

DIFFERENCES = ("utility", "accuracy")


def paired(evaluation: Evaluation, learned: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Compare two policies on the same rows and resamples.

    Returns:
        `utility` and `accuracy`: learned minus other, with 95 % intervals of the group and seed bootstrap. `mcnemar`:
        per seed the questions that only one of both answers rightly, and the exact two-sided p-value of such an
        imbalance under equal accuracy; it takes questions for independent, as the intervals do not. None where scores
        are not all 0 or 1.

    Args:
        evaluation: of the rows.
        learned: actions (S, n).
        other: actions (n,), (1, n) or (S, n).
    """
    ours, theirs = (evaluation.samples(actions, DIFFERENCES) for actions in (learned, other))
    result: dict[str, Any] = {
        name: interval(ours[name][0] - theirs[name][0], ours[name][1] - theirs[name][1]) for name in DIFFERENCES
    }
    score = evaluation.rows.split.score
    binary = bool(((score == 0) | (score == 1)).all())
    return result | {"mcnemar": mcnemar(score, learned, other) if binary else None}


def mcnemar(score: np.ndarray, learned: np.ndarray, other: np.ndarray) -> dict[str, list[Any]]:
    """Return McNemar's exact test per seed, for scores [n, A] of 0 and 1 and actions (S, n)."""
    from scipy.stats import binomtest

    rows = np.arange(len(score))
    ours = score[rows, np.atleast_2d(learned)] > 0  # [S, n]
    theirs = np.broadcast_to(score[rows, np.atleast_2d(other)] > 0, ours.shape)
    won = (ours & ~theirs).sum(axis=1).tolist()
    lost = (theirs & ~ours).sum(axis=1).tolist()
    chance = [
        float(binomtest(b, b + c).pvalue) if b + c else 1.0  # no question tells them apart
        for b, c in zip(won, lost, strict=True)
    ]
    return {"only_learned_right": won, "only_other_right": lost, "p_value": chance}
