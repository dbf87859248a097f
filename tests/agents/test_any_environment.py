"""The agent on every kind of space: each problem's best mean cost per step is its limit."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from agents.buffer import Step
from agents.config import LagrangianConfig, PPOConfig
from agents.cost_policy import CostActorCriticPolicy
from agents.divergence import Diverged
from agents.ppo_lagrangian import PPOLagrangian
from agents.truncation import bootstrap_truncated
from supervised.errors import DataError

CONFIG = PPOConfig(
    num_envs=8,
    n_steps=32,
    batch_size=64,
    n_epochs=4,
    hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
    learning_rate=5e-3,
    final_learning_rate=1e-3,
    gamma=0.9,
    cost_gamma=0.9,
    entropy_coefficient=0.0,
)
BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(4),
    "Box": spaces.Box(0, 1, (2,), np.float32),
    "Box of two dimensions": spaces.Box(0, 1, (2, 2), np.float32),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX,
    "Dict": spaces.Dict({"a": BOX, "b": spaces.Box(0, 1, (2, 2), np.float32)}),
    "Discrete": spaces.Discrete(4),
}


class Effort(gymnasium.Env[Any, Any]):
    """Reward and cost of an episode are the mean size of its actions: a limit of 0.3 allows 0.3, at a price of 1."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], length: int) -> None:
        self.observation_space, self.action_space, self.length = observation_space, action_space, length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def _share(self, action: Any) -> float:
        if isinstance(self.action_space, spaces.Discrete):
            return float(action) / float(self.action_space.n - 1)
        assert np.shape(action) == self.action_space.shape
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return float(np.mean(action / (self.action_space.nvec - 1)))
        return float(np.mean(action))

    def step(self, action: Any) -> Any:
        share = self._share(action) / self.length
        self.t += 1
        return self.observation_space.sample(), share, self.t == self.length, False, {"cost": share}


def _reach_the_limit(observations: str, actions: str, length: int) -> None:
    policy = "MultiInputPolicy" if observations == "Dict" else "MlpPolicy"
    env = DummyVecEnv([lambda: Effort(OBSERVATIONS[observations], ACTIONS[actions], length)] * 8)
    lagrangian = LagrangianConfig(limit=0.3, lr=0.3, update="pi", initial=1.0)
    model = PPOLagrangian(policy, env, CONFIG, lagrangian, seed=0)
    costs: list[float] = []

    def note(local: dict[str, Any], _: Any) -> bool:
        costs.append(float(model.metrics.get("rollout/episode_cost", np.nan)))
        return True

    model.learn(5_120, note)
    assert np.mean(costs[-8 * CONFIG.n_steps :]) == pytest.approx(0.3, abs=0.1)
    assert 0.5 < model.multiplier.value[0] < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_kind_of_action_learns_to_spend_the_limit(actions: str) -> None:
    _reach_the_limit("Box", actions, 1)


@pytest.mark.slow
@pytest.mark.parametrize("observations", ["Dict", "Discrete"])
def test_every_kind_of_observation_learns_to_spend_the_limit_in_many_steps(observations: str) -> None:
    _reach_the_limit(observations, "Discrete", 4)


def test_actions_that_do_not_begin_at_zero_are_refused() -> None:
    env = DummyVecEnv([lambda: Effort(BOX, spaces.Discrete(3, start=1), 1)] * 8)
    with pytest.raises(ValueError, match=r"Actions must begin at 0, got Discrete\(3, start=1\); shift them"):
        PPOLagrangian("MlpPolicy", env, CONFIG)


# -- time limits -----------------------------------------------------------------------------------------------------


class Steady(gymnasium.Env[np.ndarray, np.int64]):
    """Reward 1 and costs 3 and 0 in every step, for ever: with a discount of 0.5 they are worth 2, 6 and 0."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        return np.ones(1, np.float32), 1.0, False, False, {"cost": [3.0, 0.0]}


def test_critics_see_beyond_a_time_limit() -> None:
    config = dataclasses.replace(CONFIG, gamma=0.5, cost_gamma=0.5)
    env = DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(Steady(), 2)] * 8)
    model = PPOLagrangian("MlpPolicy", env, config, LagrangianConfig(limit=(10.0, 10.0)), seed=0).learn(5_120)
    value, cost_values = model.policy.predict_both_values(torch.ones(1, 1))
    assert value.item() == pytest.approx(2.0, abs=0.05)  # seeing 2 steps only, they would be between 1 and 1.5
    assert cost_values[0].tolist() == pytest.approx([6.0, 0.0], abs=0.15)


@pytest.mark.parametrize("kind", ["Box", "Dict"])
def test_what_a_time_limit_cut_off_is_added_to_reward_and_costs(kind: str) -> None:
    space = OBSERVATIONS[kind]
    policy = CostActorCriticPolicy(space, spaces.Discrete(2), lambda _: 1e-3, n_constraints=2)
    ends = [space.sample() for _ in range(3)]
    infos: list[dict[str, Any]] = [
        {"TimeLimit.truncated": True, "terminal_observation": ends[0]},
        {"TimeLimit.truncated": False, "terminal_observation": ends[1]},  # a real end: nothing comes after it
        {"TimeLimit.truncated": True, "terminal_observation": ends[2]},
        {},
    ]
    ones = torch.ones(4)
    step = Step(torch.zeros(4, 3), ones, ones.clone(), torch.full((4, 2), 2.0), ones, ones, ones, torch.ones(4, 2))
    bootstrap_truncated(step, np.array([True, True, True, False]), infos, policy, 0.5, 0.25)
    expected, expected_costs = [1.0] * 4, [[2.0, 2.0]] * 4
    for i in (0, 2):
        value, cost_value = policy.predict_both_values(policy.prepare(policy.obs_to_tensor(ends[i])[0]))
        expected[i] += 0.5 * value.item()
        expected_costs[i] = [2.0 + 0.25 * one for one in cost_value[0].tolist()]
    np.testing.assert_allclose(step.rewards, expected, rtol=1e-6)
    np.testing.assert_allclose(step.costs, expected_costs, rtol=1e-6)


# -- the two ways to report costs ------------------------------------------------------------------------------------


class LastCost(VecEnvWrapper):
    """Offers the costs of the infos as one array, and takes them out of the infos."""

    last_cost: np.ndarray | None = None

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.last_cost = np.stack([info.pop("cost") for info in infos])
        return observations, rewards, dones, infos


@pytest.mark.parametrize("length", [7, None])
def test_the_array_of_costs_and_the_infos_train_the_same_policy_over_many_steps(
    runner: Any, length: int | None
) -> None:
    weights = []
    for fast in (False, True):
        inside = DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(runner(length), 12)] * 8)
        env: VecEnv = LastCost(inside) if fast else inside
        model = PPOLagrangian("MlpPolicy", env, CONFIG, LagrangianConfig(limit=(1.0, 1.0), lr=0.1), seed=3)
        model.learn(1_024)
        weights.append(torch.cat([parameter.flatten() for parameter in model.policy.parameters()]))
    assert model.multiplier.value.max() > 0
    assert torch.equal(*weights)


class Reused(VecEnvWrapper):
    """Writes every observation into the same array, as some vector environments do."""

    def reset(self) -> Any:
        self.array = np.array(self.venv.reset())
        return self.array

    def step_wait(self) -> Any:
        observations, *rest = self.venv.step_wait()
        self.array[:] = observations
        return self.array, *rest


def test_an_environment_may_reuse_its_array_of_observations(runner: Any) -> None:
    weights = []
    for wrap in (lambda env: env, Reused):
        env = wrap(DummyVecEnv([runner] * 8))
        model = PPOLagrangian("MlpPolicy", env, CONFIG, LagrangianConfig(limit=(1.0, 2.0)), seed=3).learn(512)
        weights.append(torch.cat([parameter.flatten() for parameter in model.policy.parameters()]))
    assert torch.equal(*weights)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_normalised_observations_train_and_normalised_rewards_are_refused(runner: Any) -> None:
    def make() -> DummyVecEnv:
        return DummyVecEnv([runner] * 8)

    limits = LagrangianConfig(limit=(1.0, 2.0))
    model = PPOLagrangian("MlpPolicy", VecNormalize(make(), norm_reward=False), CONFIG, limits, seed=0).learn(256)
    with pytest.raises(ValueError, match=r"VecNormalize rescales rewards but not costs.*norm_reward=False\)\.$"):
        PPOLagrangian("MlpPolicy", VecNormalize(make()), CONFIG, limits)
    with pytest.raises(ValueError, match=r"VecNormalize rescales rewards but not costs"):
        model.set_env(VecNormalize(make()))
    normalize = model.get_vec_normalize_env()
    assert normalize is not None
    assert not normalize.norm_reward  # what was refused was not taken


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_rewards_that_are_no_numbers_are_refused_in_one_line(runner: Any, reward: float) -> None:
    env = DummyVecEnv([lambda: gymnasium.wrappers.TransformReward(runner(), lambda _: reward)] * 8)
    with pytest.raises(ValueError, match=r"A reward must be a finite number, got (nan|-?inf); check") as error:
        PPOLagrangian("MlpPolicy", env, CONFIG, LagrangianConfig(limit=(1.0, 2.0))).learn(8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("actions", ["Discrete", "Box"])
def test_observations_that_are_no_numbers_are_told_from_a_policy_that_is_none(actions: str) -> None:
    def make() -> Effort:
        return Effort(BOX, ACTIONS[actions], 5)

    def blind() -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.TransformObservation(make(), lambda seen: seen * np.float32(np.nan), BOX)

    env, limits = DummyVecEnv([make] * 8), LagrangianConfig(limit=1.0)
    with pytest.raises(DataError, match="An observation must hold finite numbers, got NaN or infinity; check the"):
        PPOLagrangian("MlpPolicy", DummyVecEnv([blind] * 8), CONFIG, limits).learn(8)
    with pytest.raises(Diverged, match=r"the policy is no longer finite after .* steps; lower learning_rate\.$"):
        PPOLagrangian("MlpPolicy", env, CONFIG, limits, learning_rate=1e300).learn(1_024)


def test_limits_of_the_wrong_number_are_refused(runner: Any) -> None:
    env = DummyVecEnv([runner] * 8)
    with pytest.raises(ValueError, match=r"reports costs of shape \(2,\) per step, the agent was made for 3"):
        PPOLagrangian("MlpPolicy", env, CONFIG, LagrangianConfig(limit=(1.0, 2.0, 3.0))).learn(8)
    with pytest.raises(ValueError, match=r"one number or 2 \(one per constraint\), got 3"):
        PPOLagrangian("MlpPolicy", env, CONFIG, LagrangianConfig(limit=(1.0, 2.0, 3.0)), n_constraints=2)


def test_episodes_cut_short_by_a_second_call_of_learn_are_forgotten(runner: Any) -> None:
    model = PPOLagrangian("MlpPolicy", DummyVecEnv([runner] * 8), CONFIG, LagrangianConfig(limit=(1.0, 2.0)), seed=0)
    model.learn(256)  # 32 steps: the fifth episode of 7 steps is open
    assert model.episodes.running.any()
    seen: list[np.ndarray] = []
    model.learn(256, lambda local, _: seen.append(model.episodes.running.copy()) is None)
    assert not seen[0].any()
    model.learn(256, lambda local, _: seen.append(model.episodes.running.copy()) is None, reset_num_timesteps=False)
    assert seen[CONFIG.n_steps].any()
