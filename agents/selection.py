"""Which of the policies of a run ships: snapshots go in during training, the best feasible one comes out.

A multiplier converges on average, not at its last iterate, so the last policy may break the limit. What is judged is
the policy as it will be used, with its most probable action, on questions it did not learn from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch as th
from torch import Tensor

from agents.divergence import lost
from agents.retention import ProbabilityPolicy, RetentionBuffer


class WeightedPolicy(ProbabilityPolicy, Protocol):
    """A policy with weights."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights."""
        ...


@dataclass(frozen=True)
class Judgement:
    """One policy, as it would be used: on every question the most probable action."""

    step: int
    """Steps it was trained for."""
    utility: float
    """Mean reward on the validation questions at the final alpha and gamma."""
    cost: list[float]
    """Mean cost per constraint, on the rows of the retention buffer."""
    excess: float
    """How far the worst mean cost lies above its limit; not positive: feasible."""
    bound: float
    """The same with the margin added to every mean cost; not positive: feasible beyond noise."""
    usage: float
    """Share of validation questions on which audio is used."""

    @property
    def feasible(self) -> bool:
        """Whether every mean cost stays within its limit."""
        return self.excess <= 0

    def figures(self) -> dict[str, float]:
        """Return the figures of a history's entry."""
        return {
            "validation/utility": self.utility,
            "validation/excess": self.excess,
            "validation/bound": self.bound,
            "validation/usage": self.usage,
        }

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
        observations: of the validation rows, (n, D), normalised.
        reward: of every action at the final alpha and gamma, (n, A).
        retention: rows that the mean cost is taken over.
        limits: K limits.
    """

    def __init__(
        self,
        observations: np.ndarray,
        reward: np.ndarray,
        retention: RetentionBuffer,
        limits: np.ndarray,
    ) -> None:
        self.observations = th.from_numpy(observations)
        self.reward, self.retention = reward, retention
        self.limits = limits
        self.best: Judgement | None = None
        self.actions = np.zeros(0, dtype=np.int64)  # (n,), of the policy considered last
        self.cautious = np.zeros(len(limits))  # (K,), its mean cost with the margin
        self.weights: dict[str, Tensor] = {}

    def consider(self, step: int, policy: WeightedPolicy, ships: bool = True) -> Judgement:
        """Judge the policy as it is now; if it may ship and is the best so far, keep a copy of its weights.

        Raises:
            Diverged: a probability is no number, which would pass for never using audio.
        """
        with th.no_grad():
            probabilities = policy.probabilities(self.observations).cpu().numpy()  # (n, A)
        if not np.isfinite(probabilities).all():
            raise lost(step)
        self.actions = probabilities.argmax(axis=1)  # (n,)
        judgement = self._judge(step, policy)
        if ships and judgement.better_than(self.best):
            self.best = judgement
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()}
        return judgement

    def never(self, step: int) -> Judgement:
        """Judge never using audio, which costs nothing, in place of a policy of `step` steps."""
        below = float(np.max(-self.limits, initial=-1.0))
        utility = float(self.reward[:, 0].mean(dtype=np.float64))
        return Judgement(step, utility, [0.0] * len(self.limits), excess=below, bound=below, usage=0.0)

    def _judge(self, step: int, policy: WeightedPolicy) -> Judgement:
        mean, self.cautious = self.retention.decided_cost(policy)  # (K,)
        excess, bound = mean - self.limits, self.cautious - self.limits
        return Judgement(
            step=step,
            utility=float(self.reward[np.arange(len(self.actions)), self.actions].mean(dtype=np.float64)),
            cost=mean.tolist(),
            excess=float(np.max(excess, initial=-1.0)),
            bound=float(np.max(bound, initial=-1.0)),
            usage=float(np.mean(self.actions != 0)),
        )

    def state_dict(self) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
        """Return the best judgement as JSON and its weights."""
        return (asdict(self.best) if self.best else None), self.weights

    def load_state_dict(self, best: dict[str, Any] | None, weights: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.best = Judgement(**best) if best else None
        self.weights = weights
