from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.buffer import Batch
from agents.config import LagrangianConfig, PPOConfig
from agents.objective import mixed_advantages
from agents.ppo_lagrangian import PPOLagrangian
from agents.retention import RetentionBuffer

GAINS = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
"""Five equally likely items; taking one costs 1. With a limit of 0.5 the two best are taken always and the third one
every other time: the multiplier is 0.6, the reward (1 + 0.8 + 0.3) / 5 = 0.42, the cost 0.5."""
SMALL = PPOConfig(
    num_envs=500,
    batch_size=500,
    n_epochs=4,
    hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    entropy_coefficient=0.0,
)


def _items() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reward = np.stack([np.zeros(5), GAINS], axis=1)
    cost = np.stack([np.zeros(5), np.ones(5)], axis=1)[:, None, :]  # (5, 1, 2)
    return np.eye(5), reward, cost


def _probabilities(model: PPOLagrangian) -> np.ndarray:
    items = torch.eye(5)
    is_dict = isinstance(model.observation_space, spaces.Dict)
    with torch.no_grad():
        return model.policy.probabilities({"a": items, "b": items} if is_dict else items).numpy()[:, 1]


class _Trace(BaseCallback):
    """Means over the last rollouts: a multiplier and its policy converge on average, not at the last iterate."""

    def __init__(self) -> None:
        super().__init__()
        self.multipliers: list[np.ndarray] = []
        self.probabilities: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self.multipliers.append(self.model.multiplier.value)
        self.probabilities.append(_probabilities(self.model))

    def _on_step(self) -> bool:
        return True

    def last(self, rollouts: int) -> tuple[np.ndarray, np.ndarray]:
        return np.mean(self.multipliers[-rollouts:], axis=0), np.mean(self.probabilities[-rollouts:], axis=0)


@pytest.mark.parametrize("exact", [True, False])
def test_multiplier_and_policy_reach_the_analytic_optimum_of_a_binding_constraint(bandit: Any, exact: bool) -> None:
    x, reward, cost = _items()
    model = PPOLagrangian(
        "MlpPolicy",
        bandit(x, reward, cost, 500),
        SMALL,
        LagrangianConfig(limit=0.5, lr=0.1),
        retention=RetentionBuffer(x, cost) if exact else None,  # None: the cost of the rollout, which is noisy
        seed=0,
    )
    trace = _Trace()
    model.learn(60_000, trace)
    multiplier, take = trace.last(60)
    assert multiplier[0] == pytest.approx(0.6, abs=0.06)
    assert take.mean() == pytest.approx(0.5, abs=0.05)
    assert (GAINS * take).mean() == pytest.approx(0.42, abs=0.03)
    assert not model.saturated


def test_a_limit_that_does_not_bind_leaves_the_multiplier_at_zero(bandit: Any) -> None:
    model = PPOLagrangian("MlpPolicy", bandit(*_items(), 500), SMALL, LagrangianConfig(limit=1.5, lr=0.3), seed=0)
    model.learn(15_000)
    assert model.multiplier.value[0] == 0.0
    assert _probabilities(model).mean() > 0.9


def test_a_limit_nobody_can_meet_ends_at_the_maximum_with_a_flag(bandit: Any) -> None:
    x, reward, cost = _items()
    model = PPOLagrangian(
        "MlpPolicy",
        bandit(x, reward, np.ones_like(cost), 500),
        SMALL,
        LagrangianConfig(limit=0.5, lr=1, maximum=3),
        seed=0,
    )
    flags = [model.saturated]
    model.learn(10_000)
    flags.append(model.saturated)
    assert model.multiplier.value.tolist() == [3.0]
    assert flags == [False, True]
    assert model.metrics["lagrange/saturated"] == 1.0
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.slow
def test_episodes_of_many_steps_reach_the_known_optimum(knapsack: Any) -> None:
    # The five items of one episode come in order; limit 2.5 per episode: reward 1 + 0.8 + 0.5 * 0.6 = 2.1.
    env = DummyVecEnv([lambda: knapsack(GAINS.tolist(), 5)] * 10)
    config = dataclasses.replace(SMALL, num_envs=10, n_steps=50, gamma=1.0, cost_gamma=1.0)
    model = PPOLagrangian("MlpPolicy", env, config, LagrangianConfig(limit=2.5, lr=0.02), seed=0)
    trace = _Trace()
    model.learn(60_000, trace)
    multiplier, take = trace.last(60)
    assert multiplier[0] == pytest.approx(0.6, abs=0.1)
    assert take.sum() == pytest.approx(2.5, abs=0.25)
    assert (GAINS * take).sum() == pytest.approx(2.1, abs=0.15)


def test_infos_and_the_array_of_the_fast_path_train_the_same_policy_to_the_bit(bandit: Any) -> None:
    weights = []
    for fast in (True, False):
        model = PPOLagrangian("MlpPolicy", bandit(*_items(), 500, fast), SMALL, LagrangianConfig(limit=0.5), seed=3)
        model.learn(3_000)
        weights.append(torch.cat([parameter.flatten() for parameter in model.policy.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.slow
def test_separate_environments_learn_the_same_distribution_as_the_fast_path(bandit: Any, knapsack: Any) -> None:
    x, reward, cost = _items()
    config = dataclasses.replace(SMALL, num_envs=500)
    slow_config = dataclasses.replace(SMALL, num_envs=10, n_steps=50)
    fast, slow = [], []
    for seed in range(2):
        lagrangian = LagrangianConfig(limit=0.5, lr=0.3)
        model = PPOLagrangian("MlpPolicy", bandit(x, reward, cost, 500), config, lagrangian, seed=seed)
        fast.append(_probabilities(model.learn(15_000)))
        env = DummyVecEnv([lambda: knapsack(GAINS.tolist(), 1)] * 10)
        model = PPOLagrangian("MlpPolicy", env, slow_config, lagrangian, seed=seed)
        slow.append(_probabilities(model.learn(15_000)))
    np.testing.assert_allclose(np.mean(fast, axis=0)[[0, 1, 3, 4]], np.mean(slow, axis=0)[[0, 1, 3, 4]], atol=0.15)
    assert np.mean(fast) == pytest.approx(np.mean(slow), abs=0.08)


def test_equal_seeds_give_equal_runs_and_others_do_not(bandit: Any) -> None:
    runs = []
    for seed in (5, 5, 6):
        model = PPOLagrangian("MlpPolicy", bandit(*_items(), 500), SMALL, LagrangianConfig(limit=0.5), seed=seed)
        model.learn(2_000)
        runs.append(_probabilities(model))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_with_dict_observations_and_two_constraints_only_the_binding_one_has_a_price(bandit: Any) -> None:
    x, reward, cost = _items()
    model = PPOLagrangian(
        "MultiInputPolicy",
        bandit(x, reward, np.concatenate([cost, cost], axis=1), 500, True, True),
        SMALL,
        LagrangianConfig(limit=(5.0, 0.5), lr=0.1),
        seed=0,
    )
    trace = _Trace()
    model.learn(30_000, trace)
    multiplier, take = trace.last(40)
    np.testing.assert_allclose(multiplier, [0.0, 0.6], atol=0.25)  # half of the steps of the exact test above
    assert take.mean() == pytest.approx(0.5, abs=0.1)
    assert set(model.metrics) >= {"lagrange/multiplier_0", "lagrange/multiplier_1", "rollout/episode_cost_1"}


def test_without_constraints_it_is_plain_ppo(bandit: Any) -> None:
    x, reward, cost = _items()
    env = bandit(x, reward, cost[:, :0], 500)
    model = PPOLagrangian("MlpPolicy", env, SMALL, retention=RetentionBuffer(x, cost[:, :0]), seed=0)
    model.learn(15_000)
    assert model.n_constraints == 0
    assert _probabilities(model).min() > 0.9


class Continuous(gymnasium.Env[np.ndarray, np.ndarray]):
    """Reward a, cost a: the best mean action is the limit."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(1, np.float32), float(action[0]), False, True, {"cost": float(action[0])}


def test_box_actions_and_truncated_episodes_train(bandit: Any) -> None:
    config = dataclasses.replace(SMALL, num_envs=4, n_steps=64, batch_size=64)
    model = PPOLagrangian(
        "MlpPolicy",
        DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(Continuous(), 1)] * 4),
        config,
        LagrangianConfig(limit=0.3, lr=0.5),
        seed=0,
    )
    model.learn(2_560)
    assert model.metrics["rollout/episode_cost"] <= 1.0
    assert 0.0 < model.multiplier.value[0]


def _batch(advantages: list[float], cost_advantages: list[list[float]]) -> Batch:
    n = len(advantages)
    zeros = torch.zeros(n)
    costs = torch.tensor(cost_advantages)
    return Batch(torch.zeros(n, 5), zeros, zeros, torch.tensor(advantages), zeros, costs, costs)


def test_the_advantage_is_mixed_with_the_multiplier() -> None:
    # (2 - 3 * 1) / 4 = -0.25;  (1 - 3 * -1) / 4 = 1
    mixed = mixed_advantages(_batch([2.0, 1.0], [[1.0], [-1.0]]), torch.tensor([3.0]), standardise=False)
    assert mixed.tolist() == [-0.25, 1.0]


def test_every_constraint_enters_the_mixture_with_its_own_multiplier() -> None:
    # (2 - 1 * 1 - 2 * 3) / 4 = -1.25
    mixed = mixed_advantages(_batch([2.0], [[1.0, 3.0]]), torch.tensor([1.0, 2.0]), standardise=True)
    assert mixed.tolist() == [-1.25]  # one sample is not standardised


def test_the_mixture_is_standardised_after_mixing() -> None:
    mixed = mixed_advantages(_batch([2.0, 1.0, 0.0], [[1.0], [-1.0], [0.0]]), torch.tensor([3.0]), standardise=True)
    # -1/4, 4/4, 0: mean 1/4, sample deviation sqrt((0.25 + 0.5625 + 0.0625) / 2)
    np.testing.assert_allclose(mixed, (np.array([-0.25, 1.0, 0.0]) - 0.25) / np.sqrt(0.4375), rtol=1e-5)


@pytest.mark.parametrize("constant", ["reward", "cost", "both"])
def test_advantages_without_variance_stay_finite(bandit: Any, constant: str) -> None:
    x, reward, cost = _items()
    reward = np.ones_like(reward) if constant != "cost" else reward
    cost = np.ones_like(cost) if constant != "reward" else cost
    model = PPOLagrangian(
        "MlpPolicy", bandit(x[:1], reward[:1], cost[:1], 500), SMALL, LagrangianConfig(limit=0.5), seed=0
    )
    model.learn(2_000)
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_a_multiplier_on_hold_is_measured_but_does_not_move(bandit: Any) -> None:
    model = PPOLagrangian("MlpPolicy", bandit(*_items(), 500), SMALL, LagrangianConfig(limit=0.0, lr=5.0), seed=0)
    model.hold_multiplier = True
    model.learn(1_000)
    assert model.multiplier.value[0] == 0.0
    assert model.metrics["lagrange/excess"] > 0.0


class _Capture(KVWriter):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.lines.append({"step": step, **key_values})

    def close(self) -> None:
        pass


def test_a_rollout_and_its_update_are_logged_in_one_line(bandit: Any) -> None:
    model = PPOLagrangian("MlpPolicy", bandit(*_items(), 500), SMALL, LagrangianConfig(limit=0.25, lr=1.0), seed=0)
    capture = _Capture()
    model.set_logger(Logger(None, [capture]))
    model.learn(1_500)
    assert [line["step"] for line in capture.lines] == [500, 1_000, 1_500]
    first = capture.lines[0]
    assert first["lagrange/multiplier"] == pytest.approx(first["rollout/episode_cost"] - 0.25)
    assert {"lagrange/cost", "lagrange/limit", "lagrange/excess", "train/entropy", "train/cost_value_loss"} <= set(
        first
    )


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (None, r"PPOLagrangian needs info\['cost'\] after every step, got only"),
        (np.ones(2), r"costs of shape \(2,\) per step, the agent was made for 1 constraint"),
        (float("nan"), r"A cost must be a finite number"),
        ("much", r"info\['cost'\] must be a float or a flat array"),
    ],
)
def test_an_environment_with_a_wrong_cost_is_refused(knapsack: Any, cost: Any, message: str) -> None:
    class Bad(knapsack):
        def step(self, action: int) -> Any:
            *rest, _ = super().step(action)
            return *rest, ({"cost": cost} if cost is not None else {})

    config = dataclasses.replace(SMALL, num_envs=2, n_steps=5, batch_size=5)
    model = PPOLagrangian("MlpPolicy", DummyVecEnv([lambda: Bad(GAINS.tolist(), 5)] * 2), config)
    with pytest.raises(ValueError, match=message):
        model.learn(10)


def test_of_several_environments_the_one_without_a_cost_is_told(knapsack: Any) -> None:
    class Silent(knapsack):
        def step(self, action: int) -> Any:
            *rest, _ = super().step(action)
            return *rest, {"price": 1.0}

    make = [lambda: knapsack(GAINS.tolist(), 5), lambda: Silent(GAINS.tolist(), 5)]
    model = PPOLagrangian("MlpPolicy", DummyVecEnv(make), n_steps=5, batch_size=5)
    with pytest.raises(ValueError, match=r"got only \['TimeLimit.truncated', 'price'\]"):
        model.learn(10)


def test_a_reward_that_is_no_number_is_refused(bandit: Any) -> None:
    x, reward, cost = _items()
    model = PPOLagrangian("MlpPolicy", bandit(x, reward * np.nan, cost, 500), SMALL)
    with pytest.raises(ValueError, match=r"A reward must be a finite number, got nan; check"):
        model.learn(500)


def test_a_buffer_that_does_not_fit_is_refused(bandit: Any) -> None:
    x, reward, cost = _items()
    with pytest.raises(ValueError, match=r"has 1 constraints, the agent 2; give a buffer of as many, or leave"):
        PPOLagrangian(
            "MlpPolicy", bandit(x, reward, cost, 500), SMALL, n_constraints=2, retention=RetentionBuffer(x, cost)
        )
    with pytest.raises(ValueError, match=r"needs a Discrete action space"):
        PPOLagrangian(
            "MlpPolicy",
            DummyVecEnv([Continuous] * 2),
            dataclasses.replace(SMALL, num_envs=2, batch_size=2),
            retention=RetentionBuffer(x, cost),
        )


def test_target_kl_ends_an_update_early(bandit: Any) -> None:
    config = dataclasses.replace(SMALL, target_kl=1e-9, batch_size=250)
    model = PPOLagrangian("MlpPolicy", bandit(*_items(), 500), config, LagrangianConfig(limit=0.5), seed=0)
    model.learn(500)
    assert model._n_updates == 0
    assert np.isfinite(model.metrics["train/loss"])
