"""Decision processes of several steps whose best policy within a limit, and its price, a linear program gives."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.optimize import linprog
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import LagrangianConfig, PPOConfig
from agents.ppo_lagrangian import PPOLagrangian

STEPS, STATES, ACTIONS = 4, 5, 2


class Tables:
    """A finite decision process: rewards [S, A], costs [K, S, A], transitions [S, A, S]; it begins in state 0."""

    def __init__(self, constraints: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.reward = rng.uniform(0, 1, (STATES, ACTIONS))
        self.reward[:, 1] += 0.5  # action 1 earns more everywhere and costs more, each state at a rate of its own
        self.cost = np.zeros((constraints, STATES, ACTIONS))
        self.cost[:, :, 1] = rng.uniform(0.2, 1, (constraints, STATES))
        self.move = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))

    def values(self, policy: np.ndarray) -> tuple[float, np.ndarray]:
        """Return expected return and costs [K] of a policy [T, S, A]."""
        here, earned, paid = np.eye(STATES)[0], 0.0, np.zeros(len(self.cost))
        for at in policy:
            both = here[:, None] * at  # (S, A)
            earned, paid = earned + (both * self.reward).sum(), paid + (both * self.cost).sum(axis=(1, 2))
            here = np.einsum("sa,sax->x", both, self.move)
        return float(earned), paid

    def solve(self, limits: list[float]) -> tuple[float, np.ndarray]:
        """Return the largest return within the limits and their prices [K], from the program over occupancies."""
        n = STEPS * STATES * ACTIONS
        flow, start = np.zeros((STEPS, STATES, n)), np.zeros((STEPS, STATES))
        start[0, 0] = 1.0
        of = np.arange(n).reshape(STEPS, STATES, ACTIONS)
        for t in range(STEPS):
            for s in range(STATES):
                flow[t, s, of[t, s]] = 1.0
                if t > 0:
                    flow[t, s, of[t - 1]] -= self.move[:, :, s]
        costs = np.stack([np.tile(cost.ravel(), STEPS) for cost in self.cost])
        found = linprog(
            -np.tile(self.reward.ravel(), STEPS), costs, limits, flow.reshape(-1, n), start.ravel(), method="highs"
        )
        assert found.fun is not None
        return float(-found.fun), -found.ineqlin.marginals


class TablesEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One episode of a `Tables`; the observation is the state and the time, one-hot together."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.observation_space = spaces.Box(0, 1, (STEPS * STATES,), np.float32)
        self.action_space = spaces.Discrete(ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.s = 0, 0
        return self._observation(), {}

    def _observation(self) -> np.ndarray:
        return np.eye(STEPS * STATES, dtype=np.float32)[min(self.t, STEPS - 1) * STATES + self.s]

    def step(self, action: np.int64) -> Any:
        reward, cost = self.tables.reward[self.s, action], self.tables.cost[:, self.s, action]
        self.s = int(np.searchsorted(self.tables.move[self.s, action].cumsum()[:-1], self.np_random.random()))
        self.t += 1
        return self._observation(), float(reward), self.t == STEPS, False, {"cost": cost}


class _Average(BaseCallback):
    """Exact values of the policies and the multipliers of the last rollouts: both converge on average."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables
        self.found: list[tuple[float, np.ndarray, np.ndarray]] = []

    def _on_rollout_start(self) -> None:
        with torch.no_grad():
            probabilities = self.model.policy.probabilities(torch.eye(STEPS * STATES)).numpy()
        policy = probabilities.reshape(STEPS, STATES, ACTIONS).astype(np.float64)
        self.found.append((*self.tables.values(policy), self.model.multiplier.value.copy()))

    def _on_step(self) -> bool:
        return True

    def last(self, rollouts: int) -> tuple[float, np.ndarray, np.ndarray]:
        returns, costs, multipliers = zip(*self.found[-rollouts:], strict=True)
        return float(np.mean(returns)), np.mean(costs, axis=0), np.mean(multipliers, axis=0)


def test_the_linear_program_without_a_binding_limit_agrees_with_backward_induction() -> None:
    tables = Tables(1, seed=0)
    later = np.zeros(STATES)
    for _ in range(STEPS):
        later = (tables.reward + tables.move @ later).max(axis=1)
    best, prices = tables.solve([100.0])
    assert best == pytest.approx(later[0])
    assert prices.tolist() == [0.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "lr", "limits", "seed", "steps"), [("pid", 0.05, [1.1], 0, 20_000), ("pi", 0.1, [1.1, 0.8], 1, 26_000)]
)
def test_policy_and_prices_reach_the_optimum_of_the_linear_program(
    update: Any, lr: float, limits: list[float], seed: int, steps: int
) -> None:
    tables = Tables(len(limits), seed)
    best, prices = tables.solve(limits)
    assert (prices > 0.5).all()  # every limit binds
    config = PPOConfig(
        num_envs=50,
        n_steps=8,
        batch_size=200,
        n_epochs=4,
        hidden=(32,),
        critic_hidden=(32,),
        activation="tanh",
        learning_rate=5e-3,
        final_learning_rate=1e-3,
        gamma=1.0,
        cost_gamma=1.0,
        entropy_coefficient=0.02,
    )
    lagrangian = LagrangianConfig(limit=tuple(limits), lr=lr, update=update, proportional=5.0)
    env = DummyVecEnv([lambda: TablesEnv(tables)] * 50)
    average = _Average(tables)
    PPOLagrangian("MlpPolicy", env, config, lagrangian, seed=0).learn(steps, average)
    earned, paid, multiplier = average.last(20)
    assert (paid <= np.array(limits) + 0.08).all()
    assert earned == pytest.approx(best, rel=0.04)
    assert multiplier == pytest.approx(prices, abs=0.25)  # two prices may be exchanged at little loss
    priced = Tables(0, seed)
    priced.reward, priced.move = tables.reward - np.einsum("k,ksa->sa", multiplier, tables.cost), tables.move
    priced.cost = np.zeros((1, STATES, ACTIONS))
    bound = priced.solve([1.0])[0] + multiplier @ np.array(limits)  # the dual function: best is its minimum
    assert best <= bound <= 1.04 * best
