from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from agents.config import AgentConfig, ExactConfig, LagrangianConfig, SmoothingConfig
from agents.exact import ExactLearner, GateNetwork, ascent, train_exact
from agents.layers import linear_layers
from agents.outcome_model import learnable
from agents.task import Task
from agents.train import TrainedAgent, train_agent
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import KnownProblem, KnownTable, random_problem
from envs.outcomes import OutcomeTable

EXACT = ExactConfig(hidden=(16,), steps=200, batch_size=200, judgements=10)
CONFIG = AgentConfig(
    agent="exact",
    exact=EXACT,
    smoothing=SmoothingConfig(trees=5),
    lagrangian=LagrangianConfig(limit=0.012, margin=1.0),
)


def _train(table: OutcomeTable, config: AgentConfig = CONFIG, seed: int = 0) -> TrainedAgent:
    return train_agent(table.split("train"), table.split("validation"), config, seed)


def _judge(known: KnownTable, agent: TrainedAgent) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the actions [n] on the test rows, and true utility and true drop [K] of the policy."""
    actions = agent.policy.decide(known.table.split("test").observation(slice(None)))
    chosen = np.eye(len(known.table.actions))[actions]
    return actions, *known.judge("test", chosen, CONFIG.reward)


def _cells_with_audio(known: KnownTable, actions: np.ndarray) -> list[int]:
    return sorted(set(known.cells[known.table.split("test").rows][actions != 0].tolist()))


# -- the gradient ---------------------------------------------------------------------------------------------------

WEIGHT = [[0.5, -1.0], [0.25, 0.75], [-0.5, 0.0]]
BIAS = [0.1, -0.2, 0.3]
ROWS = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
GAIN = torch.tensor([[0.3, 1.0, -0.5], [0.8, 0.2, 0.6]])


def _linear() -> GateNetwork:
    network = GateNetwork(2, (), 3, "relu")
    with torch.no_grad():
        _layer(network).weight.copy_(torch.tensor(WEIGHT))
        _layer(network).bias.copy_(torch.tensor(BIAS))
    return network


def _layer(network: nn.Sequential, place: int = 0) -> nn.Linear:
    layer = network[place]
    assert isinstance(layer, nn.Linear)
    return layer


def _slope(parameter: Tensor) -> np.ndarray:
    assert parameter.grad is not None
    return np.asarray(parameter.grad)


def _gradient(coefficient: float) -> tuple[np.ndarray, np.ndarray]:
    """Ascent direction of the mean over two rows of `sum_a p_a g_a + coefficient * H(p)`, by enumeration.

    With p = softmax(z): d/dz_b sum_a p_a g_a = p_b (g_b - sum_a p_a g_a) and d/dz_b H = -p_b (log p_b + H).
    """
    weight, bias = np.zeros((3, 2)), np.zeros(3)
    for x, g in zip(ROWS.double().numpy(), GAIN.double().numpy(), strict=True):
        z = np.array(WEIGHT) @ x + np.array(BIAS)
        p = np.exp(z) / np.exp(z).sum()
        entropy = -(p * np.log(p)).sum()
        slope = p * (g - p @ g) - coefficient * p * (np.log(p) + entropy)
        weight += np.outer(slope, x) / 2
        bias += slope / 2
    return weight, bias


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_the_gradient_is_that_of_the_enumerated_expectation(coefficient: float) -> None:
    network = _linear()
    ExactLearner(network, ExactConfig(entropy_coefficient=coefficient, weight_decay=0.0)).step(ROWS, GAIN)
    weight, bias = _gradient(coefficient)
    np.testing.assert_allclose(_slope(_layer(network).weight), -weight, atol=1e-6)  # of the loss, which is minimised
    np.testing.assert_allclose(_slope(_layer(network).bias), -bias, atol=1e-6)


@given(
    logits=arrays(np.float32, (4, 3), elements=st.floats(-5, 5, width=32)),
    gain=arrays(np.float32, (4, 3), elements=st.floats(-2, 2, width=32)),
    bonus=st.floats(0, 1),
)
def test_the_gradient_that_is_written_out_is_the_derived_one(
    logits: np.ndarray, gain: np.ndarray, bonus: float
) -> None:
    values = torch.from_numpy(logits).double().requires_grad_()
    policy = values.softmax(dim=1)
    objective = (policy * (torch.from_numpy(gain).double() - bonus * policy.log())).sum(dim=1).mean()
    (derived,) = torch.autograd.grad(objective, values)
    written = ascent(torch.from_numpy(logits), torch.from_numpy(gain), bonus)
    torch.testing.assert_close(written.double(), derived, atol=1e-5, rtol=1e-4)


def test_entropy_bonus_and_step_size_fall_to_zero_linearly() -> None:
    network = _linear()
    learner = ExactLearner(network, ExactConfig(entropy_coefficient=0.4, learning_rate=0.01, steps=4, weight_decay=0.0))
    sizes = []
    for remaining in (1.0, 0.75, 0.5, 0.25):
        network.load_state_dict(_linear().state_dict())
        learner.step(ROWS, GAIN)
        np.testing.assert_allclose(_slope(_layer(network).bias), -_gradient(0.4 * remaining)[1], atol=1e-6)
        sizes.append(learner.optimizer.learning_rate)
    assert sizes == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_a_step_goes_up_the_gradient_and_the_average_follows() -> None:
    network = _linear()
    learner = ExactLearner(network, ExactConfig(learning_rate=0.125, averaging=0.9, weight_decay=0.0))
    learner.step(ROWS, GAIN)
    moved = _layer(network).bias.detach().numpy() - np.array(BIAS)
    np.testing.assert_allclose(moved, 0.125 * np.sign(_gradient(0.1)[1]), atol=1e-4)  # Adam's first step
    averaged = _layer(learner.average.network).bias.detach().numpy() - np.array(BIAS)
    np.testing.assert_allclose(averaged, moved * 10 / 11, atol=1e-6)


def test_a_step_loads_neither_torchs_compiler_nor_sympy() -> None:
    code = (
        "import sys, torch; from agents.config import ExactConfig; from agents.exact import ExactLearner, GateNetwork\n"
        "ExactLearner(GateNetwork(2, (), 2, 'relu'), ExactConfig()).step(torch.ones(3, 2), torch.ones(3, 2))\n"
        "print(*({'sympy', 'torch._dynamo'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"\n"


def test_weights_decay_in_proportion_to_the_step_size() -> None:
    network = _linear()
    ExactLearner(network, ExactConfig(learning_rate=0.01, weight_decay=2.0)).step(ROWS, torch.zeros(2, 3))
    plain = _linear()
    ExactLearner(plain, ExactConfig(learning_rate=0.01, weight_decay=0.0)).step(ROWS, torch.zeros(2, 3))
    lost = _layer(plain).weight.detach() - _layer(network).weight.detach()
    np.testing.assert_allclose(lost, 0.01 * 2.0 * torch.tensor(WEIGHT), atol=1e-6)


@pytest.mark.parametrize("batch_size", [600, 150])  # all rows of the table at once, and a part of them
def test_costs_are_priced_by_the_multiplier_and_the_gain_is_kept_in_scale(
    table: OutcomeTable, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    step = ExactLearner.step

    def watched(self: ExactLearner, observations: Tensor, gain: Tensor) -> None:
        seen.append((observations, gain))
        step(self, observations, gain)

    monkeypatch.setattr(ExactLearner, "step", watched)
    exact = dataclasses.replace(EXACT, steps=1, batch_size=batch_size)
    config = dataclasses.replace(CONFIG, exact=exact, lagrangian=LagrangianConfig(limit=0.01, initial=3.0))
    rows = learnable(table.split("train"), config.reward, config.smoothing)
    train_exact(Task(rows, OutcomeBatches(table.split("validation"), config.reward, rows.normaliser), config, 0), print)
    reward, cost = rows.matrices(np.arange(600))
    expected = (reward - 3.0 * cost[:, 0]) / 4.0  # (r - m * c) / (1 + m)
    ((observations, gain),) = seen
    features = rows.flat(np.arange(600))
    drawn = [int(np.flatnonzero((features == row).all(axis=1))[0]) for row in observations.numpy()]
    assert len(set(drawn)) == batch_size  # every row once at most
    np.testing.assert_allclose(gain.numpy(), expected[drawn], atol=1e-6)


# -- what it learns -------------------------------------------------------------------------------------------------


def test_it_finds_the_best_policy_that_meets_the_limit(eight_cells: KnownTable) -> None:
    agent = _train(eight_cells.table)
    actions, utility, drop = _judge(eight_cells, agent)
    best = eight_cells.problem.optimum(np.array([0.012]), CONFIG.reward)
    # Cell 6 does not fit whole, and a policy that decides by its most probable action cannot take a part of it.
    assert _cells_with_audio(eight_cells, actions) == [2, 3, 5]
    assert utility - best.never > 0.97 * (best.utility - best.never)
    assert drop[0] == pytest.approx(0.0032, abs=1e-3)
    assert agent.selected.feasible
    assert agent.warning is None
    assert not agent.saturated


def test_without_a_limit_it_takes_every_cell_that_is_worth_its_price(eight_cells: KnownTable) -> None:
    agent = _train(eight_cells.table, dataclasses.replace(CONFIG, lagrangian=LagrangianConfig(limit=1.0)))
    actions, _, drop = _judge(eight_cells, agent)
    assert _cells_with_audio(eight_cells, actions) == [2, 3, 5, 6]
    assert drop[0] > 0.025


def test_the_price_of_latency_decides_which_cells_are_worth_it(eight_cells: KnownTable) -> None:
    agent = _train(eight_cells.table, dataclasses.replace(CONFIG, reward=RewardConfig(alpha=2.0)))
    assert _cells_with_audio(eight_cells, _judge(eight_cells, agent)[0]) == [2, 3]  # 0.6 and 0.75 more right, price 0.5


def test_it_learns_from_single_outcomes_too(eight_cells: KnownTable) -> None:
    agent = _train(eight_cells.table, dataclasses.replace(CONFIG, smoothing=SmoothingConfig(trees=0)))
    assert _cells_with_audio(eight_cells, _judge(eight_cells, agent)[0]) == [2, 3, 5]
    assert agent.reachable is None


def test_several_budgets_are_chosen_from(known_table: Callable[..., KnownTable]) -> None:
    audio = np.array([[0.9, 0.9, 0.9], [0.8, 0.85, 0.9], [0.2, 0.8, 0.85], [0.2, 0.4, 0.8]])  # they cost 0, 0.1, 0.2
    kind = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    problem = KnownProblem(np.full(4, 0.25), kind, np.stack([np.full((4, 3), 0.9), audio], axis=1))
    known = known_table(problem)
    agent = _train(known.table)
    actions, _, _ = _judge(known, agent)
    cells = known.cells[known.table.split("test").rows]
    assert [set(actions[cells == cell].tolist()) for cell in range(4)] == [{0}, {0}, {1}, {2}]
    assert agent.policy.actions == ("skip", "use_4", "use_8")


def test_a_table_without_retention_questions_needs_no_multiplier(known_table: Callable[..., KnownTable]) -> None:
    known = known_table(random_problem(2, cells=6, constraints=0, retention=0.0, mixed=0.0))
    agent = _train(known.table)
    _, utility, drop = _judge(known, agent)
    best = known.problem.optimum(np.zeros(0), CONFIG.reward)
    assert utility - best.never > 0.95 * (best.utility - best.never)
    assert (len(drop), agent.selected.cost, agent.saturated) == (0, [], False)
    assert not any(name.startswith("lagrange/") for name in agent.history[0])


# -- the run --------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_weights_and_others_do_not(table: OutcomeTable) -> None:
    short = dataclasses.replace(CONFIG, exact=dataclasses.replace(EXACT, steps=20, judgements=2))
    one, same, other = _train(table, short), _train(table, short), _train(table, short, seed=1)
    assert one.history == same.history
    for (weight, bias), (same_weight, same_bias) in zip(one.policy.layers, same.policy.layers, strict=True):
        assert np.array_equal(weight, same_weight)
        assert np.array_equal(bias, same_bias)
    assert not np.array_equal(one.policy.layers[0][0], other.policy.layers[0][0])


@pytest.mark.parametrize(("steps", "judgements", "judged"), [(20, 4, [5, 10, 15, 20]), (2, 5, [1, 2]), (7, 2, [4, 7])])
def test_policies_are_judged_in_equal_distances_and_at_the_end(
    table: OutcomeTable, steps: int, judgements: int, judged: list[int]
) -> None:
    exact = dataclasses.replace(EXACT, steps=steps, judgements=judgements)
    agent = _train(table, dataclasses.replace(CONFIG, exact=exact))
    assert [entry["step"] for entry in agent.history] == judged
    assert agent.selected.step in judged
    assert 2 * agent.selected.step >= steps  # what has hardly learned does not ship
    assert {"validation/utility", "validation/bound", "lagrange/multiplier", "alpha"} <= set(agent.history[-1])


def test_the_multiplier_follows_the_cost_of_the_average_policy(table: OutcomeTable) -> None:
    exact = dataclasses.replace(EXACT, steps=10, judgements=1)
    config = dataclasses.replace(CONFIG, exact=exact, lagrangian=LagrangianConfig(limit=0.02, lr=5.0, initial=2.0))
    rows = learnable(table.split("train"), config.reward, config.smoothing)
    task = Task(rows, OutcomeBatches(table.split("validation"), config.reward, rows.normaliser), config, 0)
    entries: list[dict[str, float]] = []
    layers, saturated = train_exact(task, entries.append)
    shipped = nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        for place, (weight, bias) in zip((0, 2), layers, strict=True):
            _layer(shipped, place).weight.copy_(torch.from_numpy(weight))
            _layer(shipped, place).bias.copy_(torch.from_numpy(bias))

    class _Shipped:
        def probabilities(self, observations: Tensor) -> Tensor:
            return shipped(observations).softmax(dim=1)

    (cost,) = task.retention.expected_cost(_Shipped())  # type: ignore[arg-type]
    assert entries[0]["lagrange/multiplier"] == pytest.approx(2.0 + 5.0 * (cost - 0.02), abs=1e-6)
    assert not saturated


def test_a_limit_that_cannot_be_met_ends_at_the_maximum_and_is_told(table: OutcomeTable) -> None:
    exact = dataclasses.replace(EXACT, steps=3, judgements=3)
    lagrangian = LagrangianConfig(limit=0.0, maximum=0.01, margin=0.0)
    agent = _train(table, dataclasses.replace(CONFIG, exact=exact, lagrangian=lagrangian))
    assert agent.saturated
    assert agent.history[-1]["lagrange/multiplier"] == pytest.approx(0.01)


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_the_policy_that_ships_is_the_network_that_was_trained(
    table: OutcomeTable, activation: Literal["relu", "tanh"], kind: type[nn.Module]
) -> None:
    assert isinstance(GateNetwork(3, (4,), 2, activation)[1], kind)
    exact = dataclasses.replace(EXACT, activation=activation, steps=5, judgements=1)
    agent = _train(table, dataclasses.replace(CONFIG, exact=exact))
    assert agent.policy.activation == activation
    actions = agent.policy.decide(table.split("validation").observation(slice(None)))
    assert np.mean(actions != 0) == pytest.approx(agent.selected.usage)


def test_inputs_that_do_not_change_fold_into_the_first_bias() -> None:
    torch.manual_seed(0)
    network, last = GateNetwork(5, (4,), 3, "tanh"), torch.tensor([0.5, -2.0])
    rows = torch.randn(6, 3)
    whole = network(torch.cat([rows, last.expand(6, 2)], dim=1))
    folded = network.folded(last)
    torch.testing.assert_close(folded(rows), whole)
    assert linear_layers(folded)[0][0].shape == (4, 3)
    torch.testing.assert_close(network(torch.cat([rows, last.expand(6, 2)], dim=1)), whole)  # as it was
