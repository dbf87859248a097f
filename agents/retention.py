"""The retention buffer: held-out questions go in once; the policy's expected drop per constraint comes out on demand.

Both outcomes of a question are known, so the expectation over the policy is a sum, not a sample:
`J_k = mean_i sum_a pi(a | s_i) cost[i, k, a]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from agents.cost_policy import Observations, map_observations
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
        margin: standard errors of the mean that are added to it: how far the cost is kept below a limit.
        square: (n, K, A): square of every cost, where `cost` is an expectation and knows less of its own error than
            the outcomes that it was averaged from; None: of `cost`.
        decided: whether `expected_cost` is that of the most probable actions, for a policy that will be used so.

    Rows without any cost cannot change a sum: they are counted, not kept.
    """

    def __init__(
        self,
        observations: np.ndarray | Mapping[str, np.ndarray],
        cost: np.ndarray,
        margin: float = 0.0,
        square: np.ndarray | None = None,
        decided: bool = False,
    ) -> None:
        if cost.ndim != 3 or len(cost) == 0:
            raise ConfigError(
                f"The retention buffer needs costs of shape (rows, constraints, actions), got {cost.shape}; give e.g. "
                f"cost[:, None, :] of one constraint."
            )
        if not np.isfinite(cost).all():
            raise ConfigError("The retention buffer needs finite costs, got NaN or infinity; check the table's scores.")
        parts = list(observations.values()) if isinstance(observations, Mapping) else [observations]
        if any(len(part) != len(cost) for part in parts):
            raise ConfigError(
                f"The retention buffer needs one cost per observation, got {[len(part) for part in parts]} of them "
                f"and {len(cost)} costs; give those of the same rows."
            )
        self.n_rows, self.n_constraints, self.margin, self.decided = len(cost), cost.shape[1], margin, decided
        square = cost**2 if square is None else square
        costly = np.flatnonzero(np.any((cost != 0) | (square != 0), axis=(1, 2)))
        kept = dict(observations) if isinstance(observations, Mapping) else observations
        self.observations: Observations = map_observations(
            lambda part: th.from_numpy(np.asarray(part[costly], np.float32)), kept
        )
        self.cost = th.from_numpy(np.asarray(cost[costly], np.float32))  # (m, K, A)
        self.square = th.from_numpy(np.asarray(square[costly], np.float32))  # (m, K, A)

    def expected_cost(self, policy: ProbabilityPolicy) -> np.ndarray:
        """Return the expected cost [K] of the policy as it is now, margin included, drawing no random number."""
        if self.decided:
            return self.decided_cost(policy)[1]
        total = np.zeros((2, self.n_constraints))
        for rows, probabilities in self._ask(policy):
            for sums, part in zip(total, (self.cost, self.square), strict=True):
                sums += th.einsum("ma,mka->k", probabilities, part[rows].double()).numpy()
        return self._bounded(*total / self.n_rows)

    def decided_cost(self, policy: ProbabilityPolicy) -> tuple[np.ndarray, np.ndarray]:
        """Return what the policy's most probable actions cost [K], and the same with the margin."""
        total = np.zeros((2, self.n_constraints))
        for rows, probabilities in self._ask(policy):
            actions = probabilities.argmax(dim=1)[:, None, None].expand(-1, self.n_constraints, 1)
            for sums, part in zip(total, (self.cost, self.square), strict=True):
                sums += part[rows].gather(2, actions)[:, :, 0].double().sum(dim=0).numpy()
        mean, square = total / self.n_rows
        return mean, self._bounded(mean, square)

    def _bounded(self, mean: np.ndarray, square: np.ndarray) -> np.ndarray:
        if not self.margin:
            return mean
        return np.asarray(mean + self.margin * np.sqrt(np.maximum(square - mean**2, 0.0) / self.n_rows))

    def _ask(self, policy: ProbabilityPolicy) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.cost), CHUNK):
            rows = slice(start, start + CHUNK)
            with th.no_grad():
                probabilities = policy.probabilities(map_observations(itemgetter(rows), self.observations))
            yield rows, probabilities.double().cpu()

    def smallest_cost(self) -> np.ndarray:
        """Return a cost [K] that no policy comes below: on every row the action that costs this constraint least."""
        return self.cost.double().amin(dim=2).sum(dim=0).numpy() / self.n_rows

    def check(self, action_space: spaces.Space[Any], n_constraints: int, limits: np.ndarray) -> None:
        """Refuse an agent that the buffer does not fit; warn of limits [K] below what any policy can reach.

        Raises:
            ConfigError: the actions are not Discrete, or the number of constraints is another.
        """
        if not isinstance(action_space, spaces.Discrete):
            raise ConfigError(f"A retention buffer needs a Discrete action space, got {action_space}; pass none.")
        if self.n_constraints != n_constraints:
            raise ConfigError(
                f"The retention buffer has {self.n_constraints} constraints, the agent {n_constraints}; give a buffer "
                f"of as many, or leave n_constraints out."
            )
        smallest = self.smallest_cost()
        for k in np.flatnonzero(smallest > limits):
            warnings.warn(
                f"The limit {limits[k]:g} of constraint {k} cannot be met: no policy costs less than {smallest[k]:g} "
                f"on the retention rows; raise the limit.",
                stacklevel=3,
            )
