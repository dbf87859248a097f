"""The curriculum: steps of the run go in, alpha, token cap and audio share come out and are set on the environment.

Steps are absolute, never a share of `progress_remaining`, which ends at 1 in every part of an interrupted run.
"""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.config import CurriculumConfig
from agents.ppo_lagrangian import PPOLagrangian


class Curriculum(BaseCallback):
    """Sets what moves at the start of every rollout, by the environment's `set_alpha`, `set_cap`, `set_audio_share`.

    While it moves the multiplier holds: a policy that does not yet pay for latency uses audio more than it ever will
    again, and dual ascent, which comes down far more slowly than it climbs, would carry that cost into the run.
    """

    model: PPOLagrangian

    def __init__(self, config: CurriculumConfig, final_alpha: float) -> None:
        super().__init__()
        self.config, self.final_alpha = config, final_alpha
        self.alpha = config.alpha(0, final_alpha)

    @property
    def finished(self) -> bool:
        """Whether everything has reached its final value."""
        return bool(self.model.num_timesteps >= self.config.steps)

    def set_on(self, environment: VecEnv, step: int) -> dict[str, float]:
        """Set on the environment what holds after `step` steps of the run, and return it; at 0 before its first reset.

        An environment that does not tell its `action_tokens`, or has one budget only, knows no cap.
        """
        self.alpha = self.config.alpha(step, self.final_alpha)
        environment.env_method("set_alpha", self.alpha)
        figures = {"alpha": self.alpha}
        tokens = environment.get_attr("action_tokens")[0] if environment.has_attr("action_tokens") else None
        if tokens is not None and len(tokens) > 2:
            cap = self.config.cap(step, max(tokens))
            environment.env_method("set_cap", cap)
            figures |= {} if cap is None else {"token_cap": float(cap)}
        if self.config.shares:
            share = self.config.audio_share(step, environment.get_attr("natural_audio_share")[0])
            environment.env_method("set_audio_share", share)
            figures |= {} if share is None else {"audio_share": share}
        return figures

    def _on_rollout_start(self) -> None:
        for name, value in self.set_on(self.training_env, self.model.num_timesteps).items():
            self.logger.record(f"rollout/{name}", value)
        self.model.hold_multiplier = not self.finished

    def _on_step(self) -> bool:
        return True
