from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from agents.config import CurriculumConfig, LagrangianConfig, PPOConfig
from agents.curriculum import AlphaCurriculum
from agents.ppo_lagrangian import PPOLagrangian

CONFIG = PPOConfig(num_envs=500, batch_size=500, hidden=(8,))


class _Trace(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.alphas: list[float] = []

    def _on_step(self) -> bool:
        self.alphas.append(self.training_env.get_attr("alpha")[0])
        return True


def _model(bandit: Any) -> PPOLagrangian:
    cost = np.array([[[0.0, 1.0]]])
    return PPOLagrangian(
        "MlpPolicy",
        bandit(np.ones((1, 1)), np.zeros((1, 2)), cost, 500),
        CONFIG,
        LagrangianConfig(limit=0.1, lr=9.0),
        seed=0,
    )


def test_alpha_follows_absolute_steps_also_in_a_second_learn(bandit: Any) -> None:
    model, trace = _model(bandit), _Trace()
    curriculum = AlphaCurriculum(CurriculumConfig(steps=2_000), 0.8)
    model.learn(1_000, [curriculum, trace])
    model.learn(2_000, [curriculum, trace], reset_num_timesteps=False)
    np.testing.assert_allclose(trace.alphas, [0.0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_the_multiplier_does_not_wind_up_while_alpha_moves(bandit: Any) -> None:
    model = _model(bandit)  # half of the actions cost 1: far above the limit
    curriculum = AlphaCurriculum(CurriculumConfig(steps=2_000), 0.8)
    model.learn(2_000, curriculum)
    assert model.multiplier.value[0] == 0.0
    model.learn(500, curriculum, reset_num_timesteps=False)
    assert model.multiplier.value[0] > 0.0
