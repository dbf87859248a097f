"""What a learned policy has to beat: rows of a table go in, one action per row comes out.

Every baseline is fitted on train rows and decides on others; rewards are those of the rows' alpha and gamma.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from envs.actions import Action
from envs.batch import OutcomeBatches
from supervised.errors import ConfigError


class Baseline(Protocol):
    """Something that decides without reinforcement learning."""

    def fit(self, rows: OutcomeBatches) -> Baseline:
        """Learn from train rows; returns itself."""
        ...

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """Return one action per row, int64 [n]."""
        ...


class Never:
    """The base model alone."""

    def fit(self, rows: OutcomeBatches) -> Never:
        """Nothing to learn."""
        return self

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """SKIP for every row."""
        return np.full(len(rows), Action.SKIP, dtype=np.int64)


class Always:
    """Audio for every question."""

    def fit(self, rows: OutcomeBatches) -> Always:
        """Nothing to learn."""
        return self

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """USE for every row; of several ways to use audio the last one, which has the largest budget."""
        return np.full(len(rows), rows.reward.shape[1] - 1, dtype=np.int64)


class Random:
    """Every action with a given probability, whatever the question: what a usage is worth without a choice.

    Args:
        shares: probability of every action [A], usually those of the policy that this is compared with.
        seed: of the draw.
    """

    def __init__(self, shares: np.ndarray, seed: int = 0) -> None:
        shares = np.asarray(shares, dtype=np.float64)
        if shares.ndim != 1 or not (np.all(shares >= 0) and np.isclose(shares.sum(), 1.0)):
            raise ConfigError(f"shares must be >= 0 and sum to 1, got {shares.tolist()}; use e.g. [0.6, 0.4].")
        self.shares, self.seed = shares / shares.sum(), seed

    @classmethod
    def matched(cls, actions: np.ndarray, n_actions: int, seed: int = 0) -> Random:
        """Return the one that takes each action as often as `actions` does."""
        return cls(np.bincount(actions.ravel(), minlength=n_actions) / actions.size, seed)

    def fit(self, rows: OutcomeBatches) -> Random:
        """Nothing to learn."""
        return self

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """Draw an action for every row."""
        return np.random.default_rng(self.seed).choice(len(self.shares), size=len(rows), p=self.shares)


class ConfidenceThreshold:
    """Use audio where one figure of the base's confidence is on the wrong side of a threshold.

    Which of the confidence features, which side and which threshold give the best mean reward is found on the train
    rows, exactly. Without confidence features (`cost_mode: router`) it is the better of always and never.
    """

    column: int
    """Which confidence feature; -1: none helps, never use audio."""
    threshold: float
    sign: int
    """Use audio where sign * (feature - threshold) >= 0."""
    action: int

    def fit(self, rows: OutcomeBatches) -> ConfidenceThreshold:
        """Try every feature, side, threshold and action."""
        confidence = self._confidence(rows)  # [n, C]
        self.column, self.threshold, self.sign, self.action = -1, 0.0, 1, int(Action.SKIP)
        best = 0.0
        for action in range(1, rows.reward.shape[1]):
            gain = (rows.reward[:, action] - rows.reward[:, Action.SKIP]).astype(np.float64)  # [n]
            for column in range(confidence.shape[1]):
                for sign in (1, -1):
                    total, threshold = _best_threshold(sign * confidence[:, column], gain)
                    if total > best:
                        best, self.column, self.sign = total, column, sign
                        self.threshold, self.action = sign * threshold, action
        return self

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """Compare every row with the threshold."""
        if self.column < 0:
            return np.full(len(rows), Action.SKIP, dtype=np.int64)
        values = self._confidence(rows)[:, self.column]
        unsure = self.sign * values >= self.sign * self.threshold
        return np.where(unsure, self.action, int(Action.SKIP)).astype(np.int64)

    @staticmethod
    def _confidence(rows: OutcomeBatches) -> np.ndarray:
        confidence = np.asarray(rows.split.features["confidence"], dtype=np.float64)
        return confidence if confidence.shape[1] else np.zeros((len(rows), 1))


def _best_threshold(values: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """Return the largest total gain of the rows with values >= threshold, and that threshold."""
    order = np.argsort(-values, kind="stable")
    totals = np.cumsum(gain[order])
    ends = np.append(values[order][1:] != values[order][:-1], True)  # equal values stand or fall together
    best = int(np.argmax(np.where(ends, totals, -np.inf)))
    return float(totals[best]), float(values[order][best])


class TypeMajority:
    """For every question type the action with the best mean reward on the train rows; SKIP for a type never seen."""

    action_of: dict[str, int]

    def fit(self, rows: OutcomeBatches) -> TypeMajority:
        """Find the best action of every type; a tie goes to the lower action, which is cheaper."""
        types, inverse = np.unique(rows.split.types, return_inverse=True)
        totals = np.stack([np.bincount(inverse, column, len(types)) for column in rows.reward.T], axis=1)  # [types, A]
        self.action_of = dict(zip(types.tolist(), totals.argmax(axis=1).tolist(), strict=True))
        return self

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """Look up every row's type."""
        actions = [self.action_of.get(name, int(Action.SKIP)) for name in rows.split.types.tolist()]
        return np.array(actions, dtype=np.int64)


class Oracle:
    """Knows every outcome and takes the action with the best reward, price of latency included: an upper bound."""

    def fit(self, rows: OutcomeBatches) -> Oracle:
        """Nothing to learn."""
        return self

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """Take the best action; a tie goes to the lower one."""
        return rows.reward.argmax(axis=1).astype(np.int64)
