"""One rollout with its costs: steps of (N environments) go in, minibatches with mixed advantages' parts come out.

Everything stays a torch tensor. A rollout of one step is never copied, and a minibatch that spans the whole rollout is
not even indexed: order does not matter to a mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch as th
from gymnasium import spaces
from torch import Tensor

from agents.cost_policy import Observations, map_observations


@dataclass(frozen=True)
class Step:
    """What all N environments did at one time."""

    observations: Observations  # (N, ...)
    actions: Tensor  # (N,) or (N, D)
    rewards: Tensor  # (N,)
    costs: Tensor  # (N, K)
    starts: Tensor  # (N,) 1.0 where the observation began an episode
    log_probs: Tensor  # (N,)
    values: Tensor  # (N,)
    cost_values: Tensor  # (N, K)


@dataclass(frozen=True)
class Batch:
    """B samples of a finished rollout."""

    observations: Observations  # (B, ...)
    actions: Tensor  # (B,) or (B, D)
    log_probs: Tensor  # (B,)
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,)
    cost_advantages: Tensor  # (B, K)
    cost_returns: Tensor  # (B, K)

    def take(self, indices: Tensor) -> Batch:
        """Return the samples at `indices`."""
        return Batch(  # index_select copies rows three times as fast as indexing does
            map_observations(lambda part: part.index_select(0, indices), self.observations),
            self.actions.index_select(0, indices),
            self.log_probs.index_select(0, indices),
            self.advantages.index_select(0, indices),
            self.returns.index_select(0, indices),
            self.cost_advantages.index_select(0, indices),
            self.cost_returns.index_select(0, indices),
        )


class CostRolloutBuffer:
    """Rollout buffer of `PPOLagrangian`; the constructor is the one that stable-baselines3 calls.

    Args:
        buffer_size: steps of every environment in a rollout, T.
        observation_space: not used, observations keep the shape they come in.
        action_space: not used, as above.
        device: where the tensors live.
        gae_lambda: for the reward advantage.
        gamma: discount of rewards.
        n_envs: number of environments N.
        cost_gamma: discount of costs.
        cost_gae_lambda: for the cost advantages.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "cpu",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
        cost_gamma: float = 0.99,
        cost_gae_lambda: float = 1.0,
    ) -> None:
        self.buffer_size, self.n_envs, self.device = buffer_size, n_envs, device
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.cost_gamma, self.cost_gae_lambda = cost_gamma, cost_gae_lambda
        self.reset()

    def reset(self) -> None:
        """Forget the rollout."""
        self.steps: list[Step] = []
        self.rollout: Batch | None = None

    def add(self, step: Step) -> None:
        """Append one step of all environments."""
        self.steps.append(step)

    def finish(self, last_values: Tensor, last_cost_values: Tensor, last_dones: Tensor) -> None:
        """Compute advantages and returns.

        Args:
            last_values: values (N,) of the observations after the last step.
            last_cost_values: their cost values (N, K).
            last_dones: (N,) 1.0 where the last step ended an episode.
        """
        rewards, values = _stack([s.rewards for s in self.steps]), _stack([s.values for s in self.steps])  # (T, N)
        costs, cost_values = _stack([s.costs for s in self.steps]), _stack([s.cost_values for s in self.steps])
        ends = th.cat([_stack([s.starts for s in self.steps])[1:], last_dones[None]])  # (T, N)
        advantages = gae(rewards, values, last_values, ends, self.gamma, self.gae_lambda)
        cost_advantages = gae(
            costs, cost_values, last_cost_values, ends[..., None], self.cost_gamma, self.cost_gae_lambda
        )
        self.rollout = Batch(
            _join_observations([s.observations for s in self.steps]),
            _stack([s.actions for s in self.steps]).flatten(0, 1),
            _stack([s.log_probs for s in self.steps]).flatten(),
            advantages.flatten(),
            (advantages + values).flatten(),
            cost_advantages.flatten(0, 1),
            (cost_advantages + cost_values).flatten(0, 1),
        )

    def get(self, batch_size: int) -> Iterator[Batch]:
        """Yield the finished rollout once, in minibatches drawn by torch's global generator."""
        rollout = self.finished
        total = len(rollout.log_probs)
        if batch_size >= total:
            yield rollout
            return
        for indices in th.randperm(total).to(rollout.log_probs.device).split(batch_size):
            yield rollout.take(indices)

    @property
    def finished(self) -> Batch:
        """The finished rollout as one batch."""
        if self.rollout is None:
            raise RuntimeError("The rollout is not finished; call finish() first.")
        return self.rollout


def gae(rewards: Tensor, values: Tensor, last_values: Tensor, ends: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimation (arXiv:1506.02438) for rewards or costs.

    Args:
        rewards: (T, N) or (T, N, K).
        values: of the observations before each step, the same shape.
        last_values: of the observations after the last step, (N,) or (N, K).
        ends: 1.0 where a step ended its episode, (T, N) or (T, N, 1).
        gamma: discount.
        gae_lambda: 0: one-step differences; 1: Monte Carlo.
    """
    goes_on = 1.0 - ends
    if len(rewards) == 1:
        return rewards + gamma * goes_on * last_values - values
    next_values = th.cat([values[1:], last_values[None]])
    deltas = rewards + gamma * goes_on * next_values - values
    advantages, carried = th.empty_like(deltas), th.zeros_like(last_values)
    for t in reversed(range(len(deltas))):
        carried = deltas[t] + gamma * gae_lambda * goes_on[t] * carried
        advantages[t] = carried
    return advantages


def _join_observations(steps: list[Any]) -> Observations:
    if isinstance(steps[0], dict):
        return {name: _stack([step[name] for step in steps]).flatten(0, 1) for name in steps[0]}
    return _stack(steps).flatten(0, 1)


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else th.stack(parts)  # (T, N, ...), a view where T = 1
