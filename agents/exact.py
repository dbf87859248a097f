"""The exact agent: expected outcomes of every action go in, a policy that meets the limits comes out, in seconds.

Both outcomes of a question are known, so the expected reward of a policy, `sum_a pi(a | s) r(s, a)`, has an exact
gradient: no action is sampled, no critic is needed. The constraint is PPO's: a multiplier per retention set prices the
cost, starts where the dual problem of the train rows has it, and follows the policy's cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch as th
from torch import Tensor, nn

from agents.adam import AdamW
from agents.averaging import WeightAverage
from agents.config import ExactConfig
from agents.cost_policy import Observations
from agents.layers import Layers, linear_layers
from agents.multiplier import LagrangeMultiplier
from agents.task import Task
from agents.update_log import per_constraint
from envs.batch import OutcomeBatches, RowSampler

SETTLING, SETTLING_LR = ExactConfig(steps=200, judgements=10), 50.0
"""The run that finds where the multipliers settle, and the step size that brings them there in so few judgements."""


class GateNetwork(nn.Sequential):
    """A multi-layer perceptron from normalised features (n, D) to logits (n, A)."""

    def __init__(self, width: int, hidden: tuple[int, ...], actions: int, activation: str) -> None:
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU() if activation == "relu" else nn.Tanh()]
            width = size
        super().__init__(*layers, nn.Linear(width, actions))

    def probabilities(self, observations: Observations) -> Tensor:
        """Return the probability of every action (n, A), for flat observations (n, D)."""
        return th.softmax(self(observations), dim=-1)

    def folded(self, last: Tensor) -> GateNetwork:
        """Return the network with its last inputs held at `last` [P]: what they add is part of the first bias."""
        network = copy.deepcopy(self)
        first = network[0]
        assert isinstance(first, nn.Linear)
        width = first.in_features - len(last)
        with th.no_grad():
            first.bias.add_(first.weight[:, width:] @ last)
            first.weight = nn.Parameter(first.weight[:, :width].clone())
            first.in_features = width
        return network


def train_exact(task: Task, keep: Callable[[dict[str, float]], None]) -> tuple[Layers, bool]:
    """Train a policy on the exact gradient of `E[r - multiplier . c]`, with an entropy bonus.

    Args:
        task: what to learn.
        keep: takes the step and the figures of every judgement.

    Returns:
        Layers of the selected policy, and whether the multiplier ended at its maximum in vain.
    """
    learner = ExactLearner(_network(task, task.config.exact), task.config.exact)
    multiplier = LagrangeMultiplier(task.config.lagrangian, len(task.limits))
    multiplier.start_at(task.multipliers)
    for step in _learn(task, learner, multiplier):
        policy = learner.average.network
        # What has hardly learned may keep the limit by chance, and would ship before a good policy a little above it.
        figures = task.selection.consider(step, policy, ships=2 * step >= task.config.exact.steps).figures()
        if task.config.lagrangian.maximum > 0:
            multiplier.update(task.selection.cautious)
        prices = per_constraint("lagrange/multiplier", multiplier.value)
        keep({"step": float(step), "alpha": task.config.reward.alpha, **prices, **figures})
    learner.network.load_state_dict(task.selection.weights)
    return linear_layers(learner.network), bool(multiplier.saturated.any())


def settled_multipliers(task: Task) -> np.ndarray:
    """Return the multipliers [K] that a short run of the exact agent settles at.

    The greedy policy of the forests, at whose price `task.multipliers` stands, trusts every error of theirs; a network
    evens them out, and needs a higher price. For an agent that decides early and can hardly be moved later.
    """
    lagrangian = replace(task.config.lagrangian, update="sgd", lr=SETTLING_LR)
    multiplier = LagrangeMultiplier(lagrangian, len(task.limits))
    multiplier.start_at(task.multipliers)
    learner, seen = ExactLearner(_network(task, SETTLING), SETTLING), []
    for _ in _learn(task, learner, multiplier):
        seen.append(multiplier.update(task.retention.expected_cost(learner.average.network)))
    return np.asarray(np.mean(seen[len(seen) // 2 :], axis=0))


def _network(task: Task, exact: ExactConfig) -> GateNetwork:
    th.manual_seed(task.seed)
    problem = task.rows.problem
    return GateNetwork(sum(problem.widths.values()), exact.hidden, len(problem.actions), exact.activation)


def _learn(task: Task, learner: ExactLearner, multiplier: LagrangeMultiplier) -> Iterator[int]:
    """Take all steps; yield those after which the policy is judged and the multiplier moves."""
    exact = learner.config
    for step, (observations, reward, cost) in enumerate(_batches(task.rows, exact, task.seed), start=1):
        price = th.as_tensor(multiplier.value, dtype=th.float32)  # [K]
        learner.step(observations, (reward - th.einsum("nka,k->na", cost, price)) / (1.0 + price.sum()))
        if step * exact.judgements // exact.steps > (step - 1) * exact.judgements // exact.steps:
            yield step


class ExactLearner:
    """Ascends the exact gradient of the expected gain.

    Args:
        network: of the policy.
        config: step sizes, entropy bonus, averaging.
    """

    def __init__(self, network: GateNetwork, config: ExactConfig) -> None:
        self.network, self.config = network, config
        self.average = WeightAverage(network, config.averaging)
        self.parameters = list(network.parameters())
        self.optimizer = AdamW(self.parameters, config.learning_rate, config.weight_decay)
        self.steps = 0

    def step(self, observations: Tensor, gain: Tensor) -> None:
        """Take one step on a batch: observations (B, D), gain of every action (B, A)."""
        remaining = 1.0 - self.steps / self.config.steps
        logits = self.network(observations)
        slope = ascent(logits.detach(), gain, self.config.entropy_coefficient * remaining)
        self.optimizer.learning_rate = self.config.learning_rate * remaining
        for parameter in self.parameters:
            parameter.grad = None
        # As `logits.backward(-slope)`, to the bit, which would load sympy to compare the shapes: a quarter of a run.
        (logits * -slope).sum().backward()
        self.optimizer.step()
        self.steps += 1
        self.average.update(self.network)


def ascent(logits: Tensor, gain: Tensor, bonus: float) -> Tensor:
    """Return the gradient of `mean_i sum_a policy (gain - bonus * log policy)` with respect to the logits (B, A).

    Written out, since it is one line: `policy * (worth - policy . worth)`, where `worth` is the gain with the bonus.
    The bonus's other term vanishes, as probabilities sum to 1.
    """
    log_policy = th.log_softmax(logits, dim=1)
    policy = log_policy.exp()
    worth = gain - gain[:, :1] - bonus * log_policy  # a shift changes nothing but the rounding
    return policy * (worth - (policy * worth).sum(dim=1, keepdim=True)) / len(logits)


def _batches(rows: OutcomeBatches, config: ExactConfig, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield observations (B, D), reward (B, A) and cost (B, K, A) of every step, in shuffled epochs."""
    sampler, size = RowSampler(len(rows), seed), min(config.batch_size, len(rows))
    whole = rows.matrices(np.arange(len(rows))) if len(rows) <= config.steps * size else None  # every row is drawn
    for _ in range(config.steps):
        drawn = sampler.draw(size)
        reward, cost = rows.matrices(drawn) if whole is None else (part.take(drawn, axis=0) for part in whole)
        yield th.from_numpy(rows.flat(drawn)), th.from_numpy(reward), th.from_numpy(cost)
