"""Which of the policies of a run ships: snapshots go in during training, the best feasible one comes out.

A multiplier converges on average, not at its last iterate, so the last policy may break the limit. What is judged is
the policy as it will be used, with its most probable action, on questions it did not learn from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from agents.cost_policy import CostActorCriticPolicy


@dataclass(frozen=True)
class Judgement:
    """One policy on the validation questions."""

    step: int
    """Steps it was trained for."""
    utility: float
    """Mean reward at the final alpha and gamma."""
    cost: list[float]
    """Mean cost per constraint."""
    excess: float
    """How far the worst mean cost lies above its limit; not positive: feasible."""
    bound: float
    """The same with the margin added to every mean cost; not positive: feasible beyond noise."""
    usage: float
    """Share of questions on which audio is used."""

    @property
    def feasible(self) -> bool:
        """Whether every mean cost stays within its limit."""
        return self.excess <= 0

    def better_than(self, other: Judgement | None) -> bool:
        """Within the bound before outside of it; inside the utility counts, outside the lower bound."""
        if other is None:
            return True
        inside, other_inside = self.bound <= 0, other.bound <= 0
        if inside != other_inside:
            return inside
        return self.utility > other.utility if inside else self.bound < other.bound


class FeasibleBest:
    """Keeps the best policy seen so far.

    Args:
        observations: (n, D), normalised.
        reward: (n, A) at the final alpha and gamma.
        cost: (n, K, A).
        limits: K limits.
        margin: standard errors added to a mean cost before it is compared with its limit.
    """

    def __init__(
        self, observations: np.ndarray, reward: np.ndarray, cost: np.ndarray, limits: np.ndarray, margin: float
    ) -> None:
        self.observations = th.from_numpy(observations)
        self.reward, self.cost, self.limits, self.margin = reward, cost, limits, margin
        self.best: Judgement | None = None
        self.weights: dict[str, Tensor] = {}

    def consider(self, step: int, policy: CostActorCriticPolicy) -> Judgement:
        """Judge the policy as it is now, and keep a copy of its weights if it is the best so far."""
        with th.no_grad():
            actions = policy.probabilities(self.observations).cpu().numpy().argmax(axis=1)  # (n,)
        judgement = self.judge(step, actions)
        if judgement.better_than(self.best):
            self.best = judgement
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()}
        return judgement

    def judge(self, step: int, actions: np.ndarray) -> Judgement:
        """Judge decisions [n]."""
        rows = np.arange(len(actions))
        cost = self.cost[rows, :, actions].astype(np.float64)  # (n, K)
        mean, deviation = cost.mean(axis=0), cost.std(axis=0)
        excess = mean - self.limits
        bound = excess + self.margin * deviation / np.sqrt(len(cost))
        return Judgement(
            step=step,
            utility=float(self.reward[rows, actions].mean(dtype=np.float64)),
            cost=mean.tolist(),
            excess=float(np.max(excess, initial=-1.0)),
            bound=float(np.max(bound, initial=-1.0)),
            usage=float(np.mean(actions != 0)),
        )

    def state_dict(self) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
        """Return the best judgement as JSON and its weights."""
        return (asdict(self.best) if self.best else None), self.weights

    def load_state_dict(self, best: dict[str, Any] | None, weights: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.best = Judgement(**best) if best else None
        self.weights = weights
