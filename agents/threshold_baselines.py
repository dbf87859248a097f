"""Baselines that read one figure of the base's confidence: train rows give a threshold, rows get their distance to it.

They cost nothing beside the base pass. Tables without confidence features (`cost_mode: router`) leave them nothing to
read; tables made elsewhere may have confidence features of another meaning than those of `envs.features`.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from agents.baselines import Baseline, gains
from envs.batch import OutcomeBatches
from envs.features import CONFIDENCE
from supervised.errors import ConfigError


class _Threshold(Baseline):
    """Use audio where one figure of the base's confidence is on the wrong side of a threshold.

    Of the candidates (columns and sides) the one with the best mean reward on the train rows is found, exactly.
    """

    column: int
    """Which confidence feature; -1: none helps, never use audio."""
    threshold: float
    sign: int
    """Use audio where sign * (feature - threshold) >= 0."""
    action: int
    """The paying action that is taken."""

    def _candidates(self, columns: int) -> list[tuple[int, int]]:
        """Return the columns and sides to try, of so many columns."""
        raise NotImplementedError

    def fit(self, rows: OutcomeBatches) -> Self:
        """Try every candidate, threshold and action."""
        confidence = _confidence(rows)  # [n, C]
        candidates = self._candidates(confidence.shape[1])
        self.column, self.threshold, self.sign, self.action = -1, 0.0, 1, 1
        best = 0.0
        for action, gain in enumerate(gains(rows).T, start=1):  # [n]
            for column, sign in candidates:
                total, threshold = _best_threshold(sign * confidence[:, column], gain)
                if total > best:
                    best, self.column, self.sign = total, column, sign
                    self.threshold, self.action = sign * threshold, action
        return self

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return how far every row is on the side where audio is used; the threshold itself is on that side."""
        scores = np.full((len(rows), rows.reward.shape[1] - 1), -np.inf)
        if self.column < 0:
            return np.full_like(scores, -1.0)
        values = self.sign * _confidence(rows)[:, self.column]
        scores[:, self.action - 1] = values - np.nextafter(self.sign * self.threshold, -np.inf)
        return scores


class ConfidenceThreshold(_Threshold):
    """The best threshold on the best confidence feature, whatever it means.

    Without confidence features it is the better of always and never.
    """

    def _candidates(self, columns: int) -> list[tuple[int, int]]:
        return [(column, sign) for column in range(columns) for sign in (1, -1)]


class EntropyThreshold(_Threshold):
    """Use audio where the entropy of the base's first token is high."""

    def _candidates(self, columns: int) -> list[tuple[int, int]]:
        return [(_column("entropy", columns), 1)]


class MarginThreshold(_Threshold):
    """Use audio where the base's best first token is hardly more probable than its second."""

    def _candidates(self, columns: int) -> list[tuple[int, int]]:
        return [(_column("margin", columns), -1)]


def has_confidence(rows: OutcomeBatches) -> bool:
    """Tell whether the rows have the confidence features of `envs.features`: as many, in that order."""
    return rows.split.features["confidence"].shape[1] == len(CONFIDENCE)


def _column(name: str, columns: int) -> int:
    if columns != len(CONFIDENCE):
        raise ConfigError(
            f"the table has {columns} confidence features, the {name} threshold needs the {len(CONFIDENCE)} that "
            f"build_outcomes writes ({', '.join(CONFIDENCE)}); use ConfidenceThreshold."
        )
    return CONFIDENCE.index(name)


def _confidence(rows: OutcomeBatches) -> np.ndarray:
    """Return the raw confidence features, float64 [n, C]; one column of zeros where there is none."""
    confidence = np.asarray(rows.split.features["confidence"], dtype=np.float64)
    return confidence if confidence.shape[1] else np.zeros((len(rows), 1))


def _best_threshold(values: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """Return the largest total gain of the rows with values >= threshold, and that threshold."""
    order = np.argsort(-values, kind="stable")
    totals = np.cumsum(gain[order])
    ends = np.append(values[order][1:] != values[order][:-1], True)  # equal values stand or fall together
    best = int(np.argmax(np.where(ends, totals, -np.inf)))
    return float(totals[best]), float(values[order][best])
