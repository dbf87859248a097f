"""The bootstrap behind every interval: clusters and sums per cluster go in, sums per resample come out.

Rows of one group (one picture, one video) are not independent, so groups are resampled, and with several seeds the
seeds as well. A metric is a ratio of sums over rows, so a resample is a product of group counts and group sums.
"""

from __future__ import annotations

import numpy as np

from supervised.errors import ConfigError

Interval = dict[str, float]
"""{"mean", "low", "high"}"""
GROUPS = 10_000
"""More groups than these are joined at random into as many: clusters of clusters are independent too, an interval from
10,000 of them is as good, and memory stays bounded."""


class Resamples:
    """The same draws of groups and seeds for everything that is to be compared.

    Args:
        group: cluster of every row, any numbers, [n].
        count: resamples B.
        seed: of the draws.

    Raises:
        ConfigError: fewer than two resamples.
    """

    def __init__(self, group: np.ndarray, count: int = 1000, seed: int = 0) -> None:
        if count < 2:
            raise ConfigError(f"n_resamples must be at least 2, got {count}; use e.g. 1000.")
        self.count, self.seed = count, seed
        _, self.group = np.unique(group, return_inverse=True)  # [n], 0 .. G - 1
        self.groups = int(self.group.max()) + 1
        generator = np.random.default_rng(seed)
        if self.groups > GROUPS:
            self.group = (generator.permutation(self.groups) % GROUPS)[self.group]
            self.groups = GROUPS
        self.counts = np.empty((count, self.groups), dtype=np.float32)  # [B, G], how often a group is in a resample
        for counts in self.counts:
            counts[:] = np.bincount(generator.integers(self.groups, size=self.groups), minlength=self.groups)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over the rows of every resample, float32 [B] for values [n], [B, S] for values [S, n]."""
        by_group = [np.bincount(self.group, row, self.groups) for row in np.atleast_2d(values)]
        summed = self.counts @ np.stack(by_group, axis=1).astype(np.float32)  # [B, S]
        return np.asarray(summed if np.ndim(values) == 2 else summed[:, 0])

    def over_seeds(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over the seeds that each resample draws, [b], for values [b, S] of its first b resamples."""
        seeds = values.shape[1]
        # A second generator, so that the seeds drawn do not depend on the number of groups.
        drawn = np.random.default_rng(self.seed + 1).integers(seeds, size=(self.count, seeds))[: len(values)]
        return np.asarray(np.take_along_axis(values, drawn, axis=1).mean(axis=1))


def interval(mean: float, samples: np.ndarray) -> Interval:
    """Return a mean with the 2.5 and 97.5 % points of its resamples; those where it is undefined (NaN) are left out."""
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    # Resamples are summed in float32: where all of them are equal, rounding alone would leave the mean outside.
    return {"mean": float(mean), "low": min(float(low), float(mean)), "high": max(float(high), float(mean))}
