"""The loss of constrained PPO: gradients written out against those of autograd, and clipping by hand."""

from __future__ import annotations

import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from agents.buffer import Batch
from agents.cost_policy import CostActorCriticPolicy
from agents.objective import Weights, clip_gradients, ppo_loss, ppo_slopes

ROWS, WIDTH, ACTIONS = 64, 5, 3
WEIGHTS = Weights(entropy=0.3, value=0.7, cost_value=0.4)


def _policy(constraints: int) -> CostActorCriticPolicy:
    th.manual_seed(0)
    box = spaces.Box(-1, 1, (WIDTH,))
    return CostActorCriticPolicy(
        box, spaces.Discrete(ACTIONS), lambda _: 1e-3, constraints, net_arch={"pi": [8], "vf": []}
    )


def _batch(policy: CostActorCriticPolicy) -> Batch:
    """Return samples of which some have left the clip range on either side."""
    observations, actions = th.randn(ROWS, WIDTH), th.randint(ACTIONS, (ROWS,))
    with th.no_grad():
        log_probs, *_ = policy.evaluate(observations, actions)
    costs = (ROWS, policy.n_constraints)
    parts = th.randn(ROWS), th.randn(ROWS), th.randn(costs), th.randn(costs)
    return Batch(observations, actions, log_probs + 0.4 * th.randn(ROWS), *parts)


@pytest.mark.parametrize("constraints", [0, 1, 2])
def test_gradients_written_out_are_those_of_the_loss(constraints: int) -> None:
    policy = _policy(constraints)
    batch = _batch(policy)
    loss, expected = ppo_loss(policy, batch, batch.advantages, 0.2, WEIGHTS)
    loss.backward()
    gradients = [parameter.grad for parameter in policy.parameters()]
    policy.zero_grad()
    roots, slopes, record = ppo_slopes(policy, batch, batch.advantages, 0.2, WEIGHTS)
    th.autograd.backward(roots, slopes)
    assert 0.2 < record[5] < 0.8  # both branches of the clipped objective take part
    th.testing.assert_close(record, expected)
    for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        th.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_continuous_actions_begin_at_the_loss() -> None:
    box = spaces.Box(-1, 1, (WIDTH,))
    policy = CostActorCriticPolicy(box, spaces.Box(-1, 1, (2,)), lambda _: 1e-3, 1)
    advantages = th.randn(ROWS)
    batch = Batch(
        th.randn(ROWS, WIDTH), th.randn(ROWS, 2), th.randn(ROWS), advantages, advantages, *th.randn(2, ROWS, 1)
    )
    roots, slopes, record = ppo_slopes(policy, batch, advantages, 0.2, WEIGHTS)
    loss, expected = ppo_loss(policy, batch, advantages, 0.2, WEIGHTS)
    assert (roots[0].item(), slopes[0].item()) == (loss.item(), 1.0)
    assert th.equal(record, expected)


@pytest.mark.parametrize(("largest", "expected"), [(10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])])
def test_gradients_are_scaled_together_to_the_largest_norm(largest: float, expected: list[float]) -> None:
    parameters = [nn.Parameter(th.zeros(1)) for _ in range(3)]  # the third has no gradient
    for parameter, value in zip(parameters, (3.0, 4.0), strict=False):
        parameter.grad = th.tensor([value])
    clip_gradients(parameters, largest)
    found = [parameter.grad.item() for parameter in parameters[:2] if parameter.grad is not None]
    assert found == pytest.approx(expected, rel=1e-5)
    assert parameters[2].grad is None
