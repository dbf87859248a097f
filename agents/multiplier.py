"""The Lagrange multiplier: measured costs [K] go in, one multiplier per constraint [K] comes out.

Projected dual ascent, `multiplier <- clip(multiplier + lr * (cost - limit), 0, maximum)`, once per rollout and before
the policy update. Plain ascent rather than Adam, whose step on a scalar is about lr whatever the violation is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.config import LagrangianConfig
from supervised.errors import CheckpointError, ConfigError


class LagrangeMultiplier:
    """K multipliers >= 0, the price of one unit of each cost in units of reward.

    Example:
        >>> multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.25, lr=0.5, maximum=1.0))
        >>> [float(multiplier.update([cost])[0]) for cost in (0.75, 0.25, 0.0)]
        [0.25, 0.25, 0.125]
    """

    def __init__(self, config: LagrangianConfig, n_constraints: int = 1) -> None:
        self.config = config
        self.limit = np.asarray(config.limits(n_constraints), dtype=np.float64)  # [K]
        self.value = np.full(n_constraints, float(config.initial))  # [K]
        self.cost = np.full(n_constraints, np.nan)  # [K], the last measurement

    def update(self, cost: Sequence[float] | np.ndarray) -> np.ndarray:
        """Take one step of dual ascent on the measured mean costs [K] and return the multipliers [K]."""
        self.observe(cost)
        self.value = np.clip(self.value + self.config.lr * self.excess, 0.0, self.config.maximum)
        return self.value.copy()

    def observe(self, cost: Sequence[float] | np.ndarray) -> None:
        """Remember the measured mean costs [K] without a step."""
        measured = np.asarray(cost, dtype=np.float64)
        if measured.shape != self.value.shape:
            raise ConfigError(
                f"There are {len(self.value)} constraints, but costs of shape {measured.shape} were measured; "
                f"give one cost per constraint."
            )
        if not np.isfinite(measured).all():
            raise ConfigError(f"A measured cost must be a finite number, got {measured.tolist()}; check info['cost'].")
        self.cost = measured

    @property
    def excess(self) -> np.ndarray:
        """Cost above the limit [K]; negative where there is room, NaN before the first measurement."""
        return self.cost - self.limit

    @property
    def saturated(self) -> np.ndarray:
        """Whether a multiplier stands at its maximum and the cost is still above the limit, bool [K]."""
        return (self.value >= self.config.maximum) & (self.excess > 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values; floats survive exactly."""
        return {
            "value": self.value.tolist(),
            "cost": [None if np.isnan(cost) else float(cost) for cost in self.cost],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: the state belongs to another number of constraints.
        """
        if len(state["value"]) != len(self.value):
            raise CheckpointError(
                f"The saved agent has {len(state['value'])} constraints, this run has {len(self.value)}; "
                f"resume with the table and limit that the run was started with."
            )
        self.value = np.asarray(state["value"], dtype=np.float64)
        self.cost = np.asarray([np.nan if cost is None else cost for cost in state["cost"]], dtype=np.float64)
