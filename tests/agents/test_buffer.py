from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from agents.buffer import CostRolloutBuffer, Step, gae


def _step(n: int, k: int, generator: torch.Generator, starts: torch.Tensor) -> Step:
    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return Step(draw(n, 3), draw(n), draw(n), draw(n, k), starts, draw(n), draw(n), draw(n, k))


def _array(observations: torch.Tensor | dict[str, torch.Tensor]) -> np.ndarray:
    assert isinstance(observations, torch.Tensor)
    return observations.numpy()


def test_advantages_of_two_steps_match_those_computed_by_hand() -> None:
    # Last step: 2 + 0.5 * 4 - 1 = 3. First step: 1 + 0.5 * 1 - 0.5 = 1, plus 0.5 * 0.5 * 3 = 0.75.
    advantages = gae(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [1.0]]), torch.tensor([4.0]), torch.zeros(2, 1), 0.5, 0.5
    )
    assert advantages.tolist() == [[1.75], [3.0]]


def test_nothing_flows_back_over_the_end_of_an_episode() -> None:
    advantages = gae(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [1.0]]), torch.tensor([4.0]), torch.ones(2, 1), 0.5, 0.5
    )
    assert advantages.tolist() == [[0.5], [1.0]]


def test_reward_advantages_are_those_of_stable_baselines3_and_costs_use_their_own_discounts() -> None:
    t, n, k = 6, 5, 2
    generator = torch.Generator().manual_seed(0)
    box = spaces.Box(0, 1, (3,))
    ours = CostRolloutBuffer(t, box, spaces.Discrete(2), "cpu", 0.9, 0.8, n, cost_gamma=0.7, cost_gae_lambda=0.6)
    reference = RolloutBuffer(t, box, spaces.Discrete(2), "cpu", 0.9, 0.8, n)
    cost_reference = RolloutBuffer(t, box, spaces.Discrete(2), "cpu", 0.6, 0.7, n)
    for _ in range(t):
        starts = (torch.rand(n, generator=generator) < 0.3).float()
        step = _step(n, k, generator, starts)
        ours.add(step)
        for buffer, reward, value in (
            (reference, step.rewards, step.values),
            (cost_reference, step.costs[:, 1], step.cost_values[:, 1]),
        ):
            actions = np.zeros((n, 1))
            buffer.add(_array(step.observations), actions, reward.numpy(), starts.numpy(), value, step.log_probs)
    last, last_cost = torch.rand(n, generator=generator), torch.rand(n, k, generator=generator)
    dones = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    ours.finish(last, last_cost, dones)
    reference.compute_returns_and_advantage(last, dones.numpy())
    cost_reference.compute_returns_and_advantage(last_cost[:, 1], dones.numpy())
    rollout = ours.finished
    np.testing.assert_allclose(rollout.advantages.reshape(t, n), reference.advantages, atol=1e-6)
    np.testing.assert_allclose(rollout.returns.reshape(t, n), reference.returns, atol=1e-6)
    np.testing.assert_allclose(rollout.cost_advantages[:, 1].reshape(t, n), cost_reference.advantages, atol=1e-6)
    np.testing.assert_allclose(rollout.cost_returns[:, 1].reshape(t, n), cost_reference.returns, atol=1e-6)


def test_minibatches_cover_every_sample_once_and_keep_its_parts_together() -> None:
    buffer = CostRolloutBuffer(1, spaces.Box(0, 1, (3,)), spaces.Discrete(2), n_envs=7)
    buffer.add(_step(7, 1, torch.Generator().manual_seed(0), torch.ones(7)))
    buffer.finish(torch.zeros(7), torch.zeros(7, 1), torch.ones(7))
    whole = buffer.finished
    batches = list(buffer.get(3))
    assert [len(batch.log_probs) for batch in batches] == [3, 3, 1]
    order = torch.cat([batch.log_probs for batch in batches])
    place = [whole.log_probs.tolist().index(value) for value in order.tolist()]
    assert sorted(place) == list(range(7))
    assert torch.equal(torch.cat([batch.cost_returns for batch in batches]), whole.cost_returns[place])
    assert np.array_equal(
        np.concatenate([_array(batch.observations) for batch in batches]), _array(whole.observations)[place]
    )


def test_a_rollout_of_one_step_in_one_batch_is_not_copied() -> None:
    buffer = CostRolloutBuffer(1, spaces.Box(0, 1, (3,)), spaces.Discrete(2), n_envs=7)
    step = _step(7, 1, torch.Generator().manual_seed(0), torch.ones(7))
    buffer.add(step)
    buffer.finish(torch.zeros(7), torch.zeros(7, 1), torch.ones(7))
    (batch,) = buffer.get(7)
    assert np.shares_memory(_array(batch.observations), _array(step.observations))


def test_an_unfinished_rollout_gives_no_batches() -> None:
    with pytest.raises(RuntimeError, match="not finished"):
        next(CostRolloutBuffer(1, spaces.Box(0, 1, (3,)), spaces.Discrete(2)).get(3))
