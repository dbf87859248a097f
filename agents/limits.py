"""Limits that move: steps of the run go in, the limits that the costs are held below come out.

Steps are absolute, never a share of `progress_remaining`, which ends at 1 in every part of an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from agents.multiplier import checked_limits
from agents.ppo_lagrangian import PPOLagrangian
from supervised.errors import ConfigError


class LimitSchedule(BaseCallback):
    """Moves the limits linearly from loose ones to those of the configuration, at the start of every rollout.

    Args:
        initial: limits at the first step; one number, or one per constraint.
        steps: environment steps until the final limits hold, counted from the first step of the run.
        final: the limits from there on; None: those of the agent's `LagrangianConfig`.
    """

    model: PPOLagrangian

    def __init__(
        self, initial: float | Sequence[float], steps: int, final: float | Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if steps < 0:
            raise ConfigError(f"A schedule of limits needs steps >= 0, got {steps}; use e.g. 20000.")
        self.initial, self.steps, self.final = initial, steps, final

    def limits(self, step: int) -> np.ndarray:
        """Return the limits [K] after `step` environment steps of the run."""
        lagrangian, k = self.model.lagrangian, self.model.n_constraints
        final = checked_limits(lagrangian, lagrangian.limit if self.final is None else self.final, k)
        done = 1.0 if step >= self.steps else step / self.steps
        return (1.0 - done) * checked_limits(lagrangian, self.initial, k) + done * final

    def _on_rollout_start(self) -> None:
        self.model.set_limits(self.limits(self.model.num_timesteps))

    def _on_step(self) -> bool:
        return True
