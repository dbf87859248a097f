"""What a learned policy has to beat: rows of a table go in, the gain expected of audio per row comes out.

Every baseline is fitted on train rows and decides on others; rewards are those of the rows' alpha and gamma. A baseline
is one method, `scores`; whoever learns something has `fit` as well. How scores become decisions stands here once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from envs.actions import Action
from envs.batch import OutcomeBatches
from supervised.errors import ConfigError

TYPE_ROWS = 100_000
"""Train rows that question types are counted on; their names are read from text, so more would only take time."""


class Baseline(ABC):
    """Something that decides without reinforcement learning."""

    def fit(self, rows: OutcomeBatches) -> Self:
        """Learn from train rows; returns itself. Without an own `fit` there is nothing to learn."""
        return self

    @abstractmethod
    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return what every paying action is expected to gain over SKIP, float64 [n, A - 1].

        Above 0 an action is worth taking; the higher the score, the sooner. The unit is the baseline's own.
        """

    def decide(self, rows: OutcomeBatches) -> np.ndarray:
        """Return one action per row, int64 [n]."""
        return decide(self.scores(rows))


def decide(scores: np.ndarray) -> np.ndarray:
    """Return the paying action of the highest score where that is above 0, SKIP elsewhere: int64 [n].

    Args:
        scores: [n, A - 1]; a tie goes to the lower action, which is cheaper.
    """
    return np.where(scores.max(axis=1) > 0, paying(scores), int(Action.SKIP)).astype(np.int64)


def paying(scores: np.ndarray) -> np.ndarray:
    """Return the paying action that is taken where audio is used, int64 [n], for scores [n, A - 1]."""
    return np.asarray(scores.argmax(axis=1) + 1, dtype=np.int64)


def decide_as_often(scores: np.ndarray, uses: int, seed: int = 0) -> np.ndarray:
    """Use audio on exactly so many rows, those of the highest scores: int64 [n].

    Args:
        scores: [n, A - 1].
        uses: rows to use audio on, 0 to n.
        seed: of the order among equal scores, which no score tells and which must not be that of the rows.
    """
    best = scores.max(axis=1)
    order = np.lexsort((np.random.default_rng(seed).random(len(best)), -best))
    chosen = order[:uses]
    actions = np.full(len(best), Action.SKIP, dtype=np.int64)
    actions[chosen] = paying(scores)[chosen]
    return actions


class Never(Baseline):
    """The base model alone."""

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """-1 for every action."""
        return np.full((len(rows), rows.reward.shape[1] - 1), -1.0)


class Always(Baseline):
    """Audio for every question; of several ways to use audio the last one, which has the largest budget."""

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """1 for the last action, -1 for the others."""
        scores = Never().scores(rows)
        scores[:, -1] = 1.0
        return scores


class Random(Baseline):
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

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Draw a number in [0, 1) less the share of SKIP, and the paying action that has it."""
        if self.shares.shape != (rows.reward.shape[1],):
            raise ConfigError(
                f"shares has {len(self.shares)} entries, but the rows have {rows.reward.shape[1]} actions; "
                "give one per action."
            )
        generator = np.random.default_rng(self.seed)
        skip, shares = self.shares[Action.SKIP], self.shares[1:]
        drawn = generator.random(len(rows)) - skip
        shares = shares / shares.sum() if skip < 1 else np.full(len(shares), 1 / len(shares))
        column = generator.choice(len(shares), size=len(rows), p=shares)
        scores = np.full((len(rows), len(shares)), -np.inf)
        scores[np.arange(len(rows)), column] = drawn
        return scores


class TypeMajority(Baseline):
    """For every question type the action with the best mean reward on the train rows; SKIP for a type never seen.

    Args:
        cap: train rows to count on at most, drawn at random.
    """

    gain_of: dict[str, np.ndarray]
    """Question type -> mean gain of every paying action over SKIP, float64 [A - 1]."""

    def __init__(self, cap: int = TYPE_ROWS) -> None:
        self.cap = cap

    def fit(self, rows: OutcomeBatches) -> Self:
        """Find the mean gain of every action on every type."""
        at = some_rows(len(rows), self.cap)
        names = rows.split.types if len(at) == len(rows) else [rows.split.record(int(row))["type"] for row in at]
        types, inverse, counts = np.unique(np.asarray(names, dtype=str), return_inverse=True, return_counts=True)
        totals = np.stack([np.bincount(inverse, column, len(types)) for column in gains(rows)[at].T], axis=1)
        self.gain_of = dict(zip(types.tolist(), totals / counts[:, None], strict=True))
        return self

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Look up every row's type."""
        unknown = np.full(rows.reward.shape[1] - 1, -np.inf)
        return np.stack([self.gain_of.get(name, unknown) for name in rows.split.types.tolist()])


class Oracle(Baseline):
    """Knows every outcome and takes the action with the best reward, price of latency included: an upper bound."""

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return the gain itself."""
        return gains(rows)


class ScoreOracle(Baseline):
    """Knows every outcome and uses audio wherever it raises the score, at any price."""

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return the gain in score."""
        score = rows.split.score.astype(np.float64)  # [n, A]
        return np.asarray(score[:, 1:] - score[:, :1])


def gains(rows: OutcomeBatches) -> np.ndarray:
    """Return what every paying action gains in reward over SKIP, float64 [n, A - 1]."""
    reward = rows.reward.astype(np.float64)
    return np.asarray(reward[:, 1:] - reward[:, :1])


def some_rows(count: int, cap: int, seed: int = 0) -> np.ndarray:
    """Return all indices below `count`, or `cap` of them drawn at random, ascending: int64 [min(count, cap)]."""
    if count <= cap:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=cap, replace=False))
