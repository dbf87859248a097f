from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.config import LagrangianConfig, PPOConfig
from agents.limits import LimitSchedule
from agents.ppo_lagrangian import PPOLagrangian

CONFIG = PPOConfig(num_envs=4, n_steps=25, batch_size=50, n_epochs=2, hidden=(8,), critic_hidden=(4,), cost_gamma=0.9)
LIMITS = LagrangianConfig(limit=(0.5, 1.0), lr=0.1, update="pid", smoothing=0.25)
TOTAL = 800


def _plain(runner: Any) -> VecEnv:
    return DummyVecEnv([runner] * 4)


def _monitored(runner: Any) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(runner())] * 4)


def _counted(runner: Any) -> VecEnv:
    return VecMonitor(_plain(runner))


def _normalised(runner: Any) -> VecEnv:
    return VecNormalize(_plain(runner), norm_reward=False)


def _cut_off(runner: Any) -> VecEnv:
    return VecNormalize(DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(runner(None), 9)] * 4), norm_reward=False)


class _Interrupted(Exception):
    """The run was stopped."""


class _Keeper(BaseCallback):
    """Writes a checkpoint before every rollout, notes the multipliers, and stops the run at a step."""

    def __init__(self, directory: Path | None, stop: int | None = None) -> None:
        super().__init__()
        self.directory, self.stop = directory, stop
        self.seen: list[tuple[int, list[float], list[float]]] = []

    def _on_rollout_start(self) -> None:
        step = self.model.num_timesteps
        self.seen.append((step, self.model.multiplier.value.tolist(), self.model.multiplier.limit.tolist()))
        if self.directory is not None:
            save_checkpoint(self.directory, self.model, {"seed": 0})
        if self.stop == step:
            raise _Interrupted

    def _on_step(self) -> bool:
        return True


def _model(env: VecEnv, seed: int = 0) -> PPOLagrangian:
    return PPOLagrangian("MlpPolicy", env, CONFIG, LIMITS, seed=seed)


@pytest.mark.parametrize("make", [_plain, _monitored, _counted, _normalised, _cut_off])
@pytest.mark.parametrize("stop", [100, 500])
def test_a_run_of_many_steps_with_pid_and_a_moving_limit_goes_on_to_the_bit(
    runner: Any, tmp_path: Path, make: Any, stop: int
) -> None:
    whole, all_seen = _model(make(runner)), _Keeper(None)
    whole.learn(TOTAL, [LimitSchedule((3.0, 4.0), 600), all_seen])
    assert {tuple(limit) for _, _, limit in all_seen.seen} >= {(3.0, 4.0), (0.5, 1.0)}
    assert max(max(value) for _, value, _ in all_seen.seen) > 0

    with pytest.raises(_Interrupted):
        _model(make(runner)).learn(TOTAL, [LimitSchedule((3.0, 4.0), 600), _Keeper(tmp_path, stop)])
    np.random.seed(1)  # what happens in between must not matter
    torch.manual_seed(1)
    random.seed(1)
    resumed, seen = _model(make(runner), seed=5), _Keeper(None)
    load_checkpoint(tmp_path, resumed, {"seed": 0})
    assert resumed.num_timesteps == stop
    resumed.learn(TOTAL - stop, [LimitSchedule((3.0, 4.0), 600), seen], reset_num_timesteps=False)
    assert seen.seen == [one for one in all_seen.seen if one[0] >= stop]
    assert resumed.multiplier.state_dict() == whole.multiplier.state_dict()
    assert resumed.episodes.running.tolist() == whole.episodes.running.tolist()
    for name, one in whole.policy.state_dict().items():
        assert torch.equal(one, resumed.policy.state_dict()[name])
    assert {k: v for k, v in whole.metrics.items() if v == v} == {k: v for k, v in resumed.metrics.items() if v == v}


def test_an_environment_that_cannot_tell_its_state_is_refused(runner: Any, knapsack: Any, tmp_path: Path) -> None:
    silent = PPOLagrangian("MlpPolicy", DummyVecEnv([lambda: knapsack([1.0] * 5, 5)] * 4), CONFIG, seed=0).learn(100)
    with pytest.raises(ValueError, match=r"DummyVecEnv has no get_state\(\) and set_state\(\), nor have the env"):
        save_checkpoint(tmp_path, silent, {})
    with pytest.raises(ValueError, match=r"nothing to go on from before the first observation; write checkpoints from"):
        save_checkpoint(tmp_path, _model(_plain(runner)), {})
    stacked = _model(VecFrameStack(_plain(runner), 2)).learn(100)
    with pytest.raises(ValueError, match=r"VecFrameStack keeps a state that a checkpoint does not hold"):
        save_checkpoint(tmp_path, stacked, {})

    class Odd(runner):
        def get_state(self) -> dict[str, Any]:
            return {"t": np.float32(1.0)}

    odd = _model(_plain(Odd)).learn(100)
    with pytest.raises(ValueError, match=r"get_state\(\) must return plain JSON values"):
        save_checkpoint(tmp_path, odd, {})


def test_a_checkpoint_of_another_number_of_environments_is_refused(runner: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _model(_plain(runner)).learn(100), {})
    config = PPOConfig(num_envs=2, n_steps=50, batch_size=50, hidden=(8,), critic_hidden=(4,))
    other = PPOLagrangian("MlpPolicy", DummyVecEnv([runner] * 2), config, LIMITS)
    with pytest.raises(ValueError, match=r"is of 4 environments, here are 2; resume with the settings"):
        load_checkpoint(tmp_path, other, {})
