"""The curriculum: steps of the run go in, the price of latency comes out and is set on the environment.

Steps are absolute, never a share of `progress_remaining`, which ends at 1 in every part of an interrupted run.
"""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback

from agents.config import CurriculumConfig
from agents.ppo_lagrangian import PPOLagrangian


class AlphaCurriculum(BaseCallback):
    """Sets alpha at the start of every rollout through the environment's `set_alpha`.

    While alpha moves the multiplier holds: a policy that does not yet pay for latency uses audio more than it ever will
    again, and dual ascent, which comes down far more slowly than it climbs, would carry that cost into the run.
    """

    model: PPOLagrangian

    def __init__(self, config: CurriculumConfig, final_alpha: float) -> None:
        super().__init__()
        self.config, self.final_alpha = config, final_alpha
        self.alpha = config.alpha(0, final_alpha)

    @property
    def finished(self) -> bool:
        """Whether alpha has reached its final value."""
        return bool(self.model.num_timesteps >= self.config.steps)

    def _on_rollout_start(self) -> None:
        self.alpha = self.config.alpha(self.model.num_timesteps, self.final_alpha)
        self.training_env.env_method("set_alpha", self.alpha)
        self.model.hold_multiplier = not self.finished
        self.logger.record("rollout/alpha", self.alpha)

    def _on_step(self) -> bool:
        return True
