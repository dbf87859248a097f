"""What decisions are worth: actions [S, n] of S seeds and the n rows go in, metrics with 95 % intervals come out.

Rows of one group (one picture, one video) are not independent, so the bootstrap resamples groups, and with several
seeds the seeds as well. Every metric is a ratio of sums over rows, a resample a product of group counts and group sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from envs.actions import Action
from envs.batch import OutcomeBatches
from supervised.errors import ConfigError

RIGHT = 0.5  # a score above this counts as a right answer; scores of VQA are soft
Interval = dict[str, float]


class Evaluation:
    """Judges any number of policies on the same rows with the same resamples, so that they can be compared.

    Args:
        rows: of one split, with the rewards of the final alpha and gamma.
        n_resamples: resamples of the bootstrap.
        seed: of the bootstrap.
    """

    def __init__(self, rows: OutcomeBatches, n_resamples: int = 1000, seed: int = 0) -> None:
        if n_resamples < 2:
            raise ConfigError(f"n_resamples must be at least 2, got {n_resamples}; use e.g. 1000.")
        self.rows, self.seed = rows, seed
        _, self._group = np.unique(rows.split.group, return_inverse=True)
        n_groups = int(self._group.max()) + 1
        generator = np.random.default_rng(seed)
        self._counts = np.empty((n_resamples, n_groups), dtype=np.float32)  # [B, G], how often a group is in a resample
        for counts in self._counts:
            counts[:] = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)
        weights = self._weights()
        self._names = list(weights)
        self._weight = np.stack(list(weights.values()))  # [M, n], 1 where the row counts for the metric
        self._totals = self._weight.sum(axis=1)  # [M]
        self._resampled_totals = self._counts @ self._by_group(self._weight[:, None]).reshape(n_groups, -1)  # [B, M]
        constant = np.zeros(len(rows), dtype=np.int64)
        last = np.full(len(rows), rows.reward.shape[1] - 1, dtype=np.int64)
        self._gain = self._audio_accuracy(last) - self._audio_accuracy(constant)  # [1 + B]
        self._base = self._audio_accuracy(constant)

    def metrics(self, actions: np.ndarray) -> dict[str, Interval]:
        """Return every metric as mean, low and high, in fractions (drop 0.003 = 0.3 points) and milliseconds.

        accuracy: mean score. audio_accuracy: the same, on rows that need audio. retention_score, drop, harm: achieved
        score, base - achieved, and share of the base's right answers lost, on rows that need none; with several
        retention sets also drop_<set>. usage: share of rows with audio. latency_ms: mean. utility: mean reward.
        audio_gain_share: gain in audio_accuracy over the base, as a share of always-use's. A metric without a row to
        count on is left out.

        Args:
            actions: (n,) or (S, n).
        """
        actions = np.atleast_2d(np.asarray(actions, dtype=np.int64))  # (S, n)
        if actions.ndim != 2 or actions.shape[1] != len(self.rows):
            raise ConfigError(
                f"actions must have shape (seeds, {len(self.rows)}), got {actions.shape}; give one action per row."
            )
        values = self._values(actions)  # [M, S, n]
        seeds = len(actions)
        sums = (values * self._weight[:, None]).sum(axis=2)  # [M, S]
        by_group = self._by_group(values * self._weight[:, None])  # [G, M, S]
        resampled = (self._counts @ by_group.reshape(len(by_group), -1)).reshape(-1, *sums.shape)  # [B, M, S]
        # A second generator, so that the seeds drawn do not depend on the number of groups.
        drawn = np.random.default_rng(self.seed + 1).integers(seeds, size=(len(resampled), seeds))  # [B, S]
        resampled = np.take_along_axis(resampled, drawn[:, None, :], axis=2).mean(axis=2)  # [B, M]
        result = {}
        for m, name in enumerate(self._names):
            if self._totals[m] > 0:
                with np.errstate(invalid="ignore", divide="ignore"):
                    samples = resampled[:, m] / self._resampled_totals[:, m]
                result[name] = _interval(sums[m].mean() / self._totals[m], samples)
                if name == "audio_accuracy" and self._gain[0] > 0:
                    result["audio_gain_share"] = self._gain_share(sums[m].mean() / self._totals[m], samples)
        return result

    def _weights(self) -> dict[str, np.ndarray]:
        retention = self.rows.split.retention_set
        everything, irrelevant = np.ones(len(retention)), (retention >= 0).astype(float)
        sets = self.rows.problem.retention_sets
        each = {f"drop_{name}": (retention == k).astype(float) for k, name in enumerate(sets)} if len(sets) > 1 else {}
        return {
            "accuracy": everything,
            "audio_accuracy": 1.0 - irrelevant,
            "retention_score": irrelevant,
            "drop": irrelevant,
            "harm": irrelevant,
            "usage": everything,
            "latency_ms": everything,
            "utility": everything,
            **each,
        }

    def _values(self, actions: np.ndarray) -> np.ndarray:
        rows = np.arange(actions.shape[1])
        split = self.rows.split
        score, base = split.score[rows, actions].astype(np.float64), split.score[:, Action.SKIP]  # (S, n), (n,)
        harm = (base > RIGHT) & (score <= RIGHT)
        latency, reward = split.latency_ms[rows, actions], self.rows.reward[rows, actions]
        common = [score, score, score, base - score, harm, actions != Action.SKIP, latency, reward]
        return np.stack([*common, *[base - score] * (len(self._names) - len(common))]).astype(np.float64)  # [M, S, n]

    def _by_group(self, values: np.ndarray) -> np.ndarray:
        """Sum (M, S, n) over the rows of every group: (G, M, S), float32."""
        order = np.argsort(self._group, kind="stable")
        starts = np.flatnonzero(np.diff(self._group[order], prepend=-1))
        summed = np.add.reduceat(values[..., order], starts, axis=-1)  # (M, S, G)
        return np.moveaxis(summed, -1, 0).astype(np.float32)

    def _audio_accuracy(self, actions: np.ndarray) -> np.ndarray:
        """Return the audio accuracy [1 + B] of one policy on all rows and on every resample."""
        m = self._names.index("audio_accuracy")
        values = self._values(actions[None])[m : m + 1] * self._weight[m]  # (1, 1, n)
        resampled = (self._counts @ self._by_group(values)[:, 0])[:, 0]  # [B]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.append(values.sum(), resampled) / np.append(self._totals[m], self._resampled_totals[:, m])
        return np.asarray(share, dtype=np.float64)

    def _gain_share(self, mean: float, samples: np.ndarray) -> Interval:
        gain = np.where(self._gain > 0, self._gain, np.nan)  # a resample in which audio does not help has no share
        shares = (np.append(mean, samples) - self._base) / gain
        return _interval(float(shares[0]), shares[1:])


def evaluate(
    policies: Mapping[str, np.ndarray], rows: OutcomeBatches, n_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Return the metrics of every policy, given as actions (n,) or (S, n), on the same resamples."""
    evaluation = Evaluation(rows, n_resamples, seed)
    return {name: evaluation.metrics(actions) for name, actions in policies.items()}


def _interval(mean: float, samples: np.ndarray) -> Interval:
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    # Resamples are summed in float32: where all of them are equal, rounding alone would leave the mean outside.
    return {"mean": float(mean), "low": min(float(low), float(mean)), "high": max(float(high), float(mean))}
