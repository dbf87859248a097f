"""What decisions are worth: actions [S, n] of S seeds and the n rows go in, metrics with 95 % intervals come out.

Intervals resample groups, and with several seeds the seeds as well; all policies are judged on the same resamples, so
that two of them can be compared question by question.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from agents.metrics.resamples import Interval, Resamples, interval
from envs.actions import Action
from envs.batch import OutcomeBatches
from supervised.errors import ConfigError

RIGHT = 0.5  # a score above this counts as a right answer; scores of VQA are soft
PERCENTILES = {"latency_p50_ms": 0.5, "latency_p95_ms": 0.95}
Samples = dict[str, tuple[float, np.ndarray]]
"""Metric -> its value on all rows, and on every resample [B] (NaN where a resample has no row that counts)."""


class Evaluation:
    """Judges any number of policies on the same rows with the same resamples.

    Args:
        rows: of one split, with the rewards of the final alpha and gamma.
        n_resamples: resamples of the bootstrap.
        seed: of the bootstrap.
    """

    def __init__(self, rows: OutcomeBatches, n_resamples: int = 1000, seed: int = 0) -> None:
        self.rows = rows
        self.resamples = Resamples(rows.split.group, n_resamples, seed)
        self.flops = flops_of(rows)
        self._weights = self._rows_that_count()
        self._totals = {key: self.resamples.sums(weight) for key, weight in self._weights.items()}  # [B] each
        never = np.zeros((1, len(rows)), dtype=np.int64)
        self._never, self._always = (
            self._ratio("audio", self._score(actions)) for actions in (never, never + rows.reward.shape[1] - 1)
        )

    def metrics(self, actions: np.ndarray) -> dict[str, Interval]:
        """Return every metric as mean, low and high, in fractions (drop 0.003 = 0.3 points) and milliseconds.

        Their definitions are in docs/metrics.md. A metric without a row to count on is left out.

        Args:
            actions: (n,) or (S, n).
        """
        actions = self._checked(actions)
        result = {name: interval(*pair) for name, pair in self.samples(actions).items()}
        return result | {name: self._percentile(actions, share) for name, share in PERCENTILES.items()}

    def samples(self, actions: np.ndarray, only: Collection[str] | None = None) -> Samples:
        """Return every metric that is a mean, or those asked for, on all rows and on every resample."""
        actions = self._checked(actions)
        result = {}
        for name, key, values in self._values(actions):
            if self._weights[key].any() and (only is None or name in only):
                result[name] = self._ratio(key, values)
        if only is None and self._always[0] > self._never[0]:
            result["audio_gain_share"] = self._gain_share(*result["audio_accuracy"])
        return result

    def _gain_share(self, mean: float, samples: np.ndarray) -> tuple[float, np.ndarray]:
        never, always = (np.append(*pair) for pair in (self._never, self._always))
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample in which audio does not help has no share
            shares = (np.append(mean, samples) - never) / np.where(always > never, always - never, np.nan)
        return float(shares[0]), shares[1:]

    def _rows_that_count(self) -> dict[str, np.ndarray]:
        """Return weights [n], 1 where a row counts: all rows, those that need audio or none, and every set."""
        retention = self.rows.split.retention_set
        weights = {"all": np.ones(len(retention)), "audio": retention < 0, "retention": retention >= 0}
        sets = self.rows.problem.retention_sets if len(self.rows.problem.retention_sets) > 1 else ()
        weights |= {f"set {name}": retention == k for k, name in enumerate(sets)}
        return {key: weight.astype(np.float64) for key, weight in weights.items()}

    def _values(self, actions: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yield name, rows that count, and value per seed and row (S, n) of every metric that is a mean."""
        rows = np.arange(actions.shape[1])
        split = self.rows.split
        score, base = self._score(actions), split.score[:, Action.SKIP].astype(np.float64)  # (S, n), (n,)
        reward = self.rows.reward[rows, actions].astype(np.float64)
        yield "accuracy", "all", score
        yield "audio_accuracy", "audio", score
        yield "retention_score", "retention", score
        yield "drop", "retention", base - score
        yield "harm", "retention", ((base > RIGHT) & (score <= RIGHT)).astype(np.float64)
        yield "usage", "all", (actions != Action.SKIP).astype(np.float64)
        yield "latency_ms", "all", split.latency_ms[rows, actions].astype(np.float64)
        yield "utility", "all", reward
        yield "regret", "all", self.rows.reward.max(axis=1).astype(np.float64) - reward
        if self.flops is not None:
            yield "flops", "all", self.flops[actions]
        for key in self._weights:
            if key.startswith("set "):
                yield f"drop_{key.removeprefix('set ')}", key, base - score

    def _score(self, actions: np.ndarray) -> np.ndarray:
        return self.rows.split.score[np.arange(actions.shape[1]), actions].astype(np.float64)  # (S, n)

    def _ratio(self, key: str, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean of (S, n) over seeds and the rows that count, on all rows and on every resample [B]."""
        weight = self._weights[key]
        sums = self.resamples.over_seeds(self.resamples.sums(values * weight))
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.divide((values @ weight).mean(), weight.sum())), sums / self._totals[key]

    def _percentile(self, actions: np.ndarray, share: float) -> Interval:
        """Return the latency that a share of all decisions does not exceed.

        Its interval is Woodruff's (1952): the share of decisions up to that latency is a mean, so it has an interval,
        whose ends are turned back into latencies.
        """
        latency = self.rows.split.latency_ms[np.arange(actions.shape[1]), actions].astype(np.float64)  # (S, n)
        ordered = np.sort(latency, axis=None)
        value = _quantile(ordered, share)
        within, samples = self._ratio("all", (latency <= value).astype(np.float64))
        low, high = np.clip(share + np.percentile(samples - within, [2.5, 97.5]), 0, 1)
        return {"mean": value, "low": min(_quantile(ordered, low), value), "high": max(_quantile(ordered, high), value)}

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.atleast_2d(np.asarray(actions, dtype=np.int64))  # (S, n)
        if actions.ndim != 2 or actions.shape[1] != len(self.rows):
            raise ConfigError(
                f"actions must have shape (seeds, {len(self.rows)}), got {actions.shape}; give one action per row."
            )
        return actions


def evaluate(
    policies: Mapping[str, np.ndarray], rows: OutcomeBatches, n_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Return the metrics of every policy, given as actions (n,) or (S, n), on the same resamples."""
    evaluation = Evaluation(rows, n_resamples, seed)
    return {name: evaluation.metrics(actions) for name, actions in policies.items()}


def flops_of(rows: OutcomeBatches) -> np.ndarray | None:
    """Return the mean floating-point operations of every action, float64 [A], or None where the table has none."""
    told: Any = rows.split.table.provenance.get("flops")  # free form in tables made elsewhere
    actions = rows.split.table.actions
    if not isinstance(told, Mapping) or not set(actions) <= set(told):
        return None
    values = [told[name] for name in actions]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) and value >= 0 for value in values):
        return None
    return np.array(values, dtype=np.float64)


def _quantile(ordered: np.ndarray, share: float) -> float:
    """Return the smallest value that at least a share of the values does not exceed."""
    return float(ordered[max(math.ceil(share * len(ordered) - 1e-9) - 1, 0)])
