from __future__ import annotations

from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import LagrangianConfig, PPOConfig
from agents.limits import LimitSchedule
from agents.ppo_lagrangian import PPOLagrangian

CONFIG = PPOConfig(num_envs=4, n_steps=25, batch_size=50, n_epochs=1, hidden=(8,))


def _model(runner: Any) -> PPOLagrangian:
    return PPOLagrangian("MlpPolicy", DummyVecEnv([runner] * 4), CONFIG, LagrangianConfig(limit=(1.0, 2.0)), seed=0)


class _Seen(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.limits: list[list[float]] = []

    def _on_rollout_start(self) -> None:
        self.limits.append(self.model.multiplier.limit.tolist())

    def _on_step(self) -> bool:
        return True


def test_limits_move_linearly_from_loose_to_final_and_stay(runner: Any) -> None:
    model, seen = _model(runner), _Seen()
    model.learn(500, [LimitSchedule((3.0, 4.0), 200), seen])
    assert seen.limits == [[3.0, 4.0], [2.0, 3.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    assert model.metrics["lagrange/limit_0"] == 1.0


def test_one_number_loosens_all_limits_and_a_final_one_replaces_those_of_the_configuration(runner: Any) -> None:
    model, seen = _model(runner), _Seen()
    model.learn(300, [LimitSchedule(4.0, 200, final=(0.0, 2.0)), seen])
    assert seen.limits == [[4.0, 4.0], [2.0, 3.0], [0.0, 2.0]]


def test_the_multiplier_follows_the_limit_of_its_rollout(runner: Any) -> None:
    model = _model(runner)
    model.learn(100)
    model.set_limits([0.5, 10.0])
    before = model.multiplier.value.copy()
    model.learn(100, reset_num_timesteps=False)
    cost = model.multiplier.cost
    assert model.multiplier.value[0] == pytest.approx(min(max(before[0] + 50.0 * (cost[0] - 0.5), 0.0), 20.0))
    assert model.multiplier.value[1] == 0.0


@pytest.mark.parametrize(
    ("initial", "steps", "message"),
    [((1.0, 2.0, 3.0), 10, r"one number or 2"), (-1.0, 10, r"a number >= 0"), (1.0, -1, r"needs steps >= 0, got -1")],
)
def test_a_schedule_that_makes_no_sense_is_refused(runner: Any, initial: Any, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model(runner).learn(100, LimitSchedule(initial, steps))
