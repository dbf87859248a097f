"""The retention buffer: held-out questions go in once; the policy's expected drop per constraint comes out on demand.

Both outcomes of a question are known, so the expectation over the policy is a sum, not a sample:
`J_k = mean_i sum_a pi(a | s_i) cost[i, k, a]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Protocol

import numpy as np
import torch as th
from torch import Tensor

from agents.buffer import map_observations
from agents.cost_policy import Observations
from supervised.errors import ConfigError

CHUNK = 65_536  # rows of one forward pass, so that a large table does not need a large peak of memory


class ProbabilityPolicy(Protocol):
    """Anything that gives the probability of every action."""

    def probabilities(self, observations: Observations) -> Tensor:
        """Return (n, A) for n observations."""
        ...


class RetentionBuffer:
    """Rows whose costs are known for every action.

    Args:
        observations: (n, D), or one array per part of a Dict observation.
        cost: (n, K, A): cost of every action on every constraint, scaled so that the mean over rows is the drop.

    Rows without any cost cannot change a sum: they are counted, not kept.
    """

    def __init__(self, observations: np.ndarray | Mapping[str, np.ndarray], cost: np.ndarray) -> None:
        if cost.ndim != 3 or len(cost) == 0:
            raise ConfigError(
                f"The retention buffer needs costs of shape (rows, constraints, actions), got {cost.shape}."
            )
        if not np.isfinite(cost).all():
            raise ConfigError("The retention buffer needs finite costs, got NaN or infinity; check the table's scores.")
        parts = list(observations.values()) if isinstance(observations, Mapping) else [observations]
        if any(len(part) != len(cost) for part in parts):
            raise ConfigError(
                f"The retention buffer needs one cost per observation, got {[len(part) for part in parts]} of them "
                f"and {len(cost)} costs."
            )
        self.n_rows, self.n_constraints = len(cost), cost.shape[1]
        costly = np.flatnonzero(np.any(cost != 0, axis=(1, 2)))
        kept = dict(observations) if isinstance(observations, Mapping) else observations
        self.observations: Observations = map_observations(
            lambda part: th.from_numpy(np.asarray(part[costly], np.float32)), kept
        )
        self.cost = th.from_numpy(np.asarray(cost[costly], np.float32))  # (m, K, A)

    def expected_cost(self, policy: ProbabilityPolicy) -> np.ndarray:
        """Return the expected cost [K] of the policy as it is now, drawing no random number."""
        total = np.zeros(self.n_constraints)
        for start in range(0, len(self.cost), CHUNK):
            rows = slice(start, start + CHUNK)
            with th.no_grad():
                probabilities = policy.probabilities(map_observations(itemgetter(rows), self.observations))
            total += th.einsum("ma,mka->k", probabilities.double().cpu(), self.cost[rows].double()).numpy()
        return total / self.n_rows
