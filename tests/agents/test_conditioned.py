"""One network for every price: its policies follow prices and limits without further training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.conditioned import ConditionedPolicy, Prices
from agents.config import AgentConfig, ExactConfig, LagrangianConfig, SmoothingConfig
from agents.gate_policy import GatePolicy
from agents.outcome_model import learnable
from agents.task import Task
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import KnownTable
from supervised.errors import CheckpointError, ConfigError

LIMIT = 0.012
GAMMA = RewardConfig().gamma


@pytest.fixture(scope="module")
def task(eight_cells: KnownTable) -> Task:
    config = AgentConfig(
        agent="exact",
        exact=ExactConfig(hidden=(32,), steps=600, batch_size=250),
        smoothing=SmoothingConfig(trees=5),
        lagrangian=LagrangianConfig(limit=LIMIT),
    )
    rows = learnable(eight_cells.table.split("train"), RewardConfig(), config.smoothing)
    validation = OutcomeBatches(eight_cells.table.split("validation"), RewardConfig(), rows.normaliser)
    return Task(rows, validation, config, seed=0)


@pytest.fixture(scope="module")
def trained(task: Task) -> ConditionedPolicy:
    policy = ConditionedPolicy(task, Prices(alpha=2.0, gamma=0.2))
    policy.train()
    return policy


def cells_with_audio(known: KnownTable, policy: GatePolicy) -> list[int]:
    test = known.table.split("test")
    actions = policy.decide(test.observation(slice(None)))
    return sorted(set(known.cells[test.rows][actions != 0].tolist()))


@pytest.mark.parametrize(
    ("alpha", "limit", "cells"),
    [
        # An audio call costs alpha / 4. Cells 2, 3 and 4 need audio, which adds 0.75, 0.6 and 0.1 there; a mixed cell's
        # audio adds 0.208 on cell 5 and 0.21 on cell 6, gamma paid; on cell 7 it spoils more than it adds.
        (0.0, LIMIT, [2, 3, 4, 5]),
        (0.6, LIMIT, [2, 3, 5]),
        (2.0, LIMIT, [2, 3]),
        (0.6, 0.05, [2, 3, 5, 6]),
    ],
)
def test_every_price_and_limit_has_its_policy(
    eight_cells: KnownTable, trained: ConditionedPolicy, alpha: float, limit: float, cells: list[int]
) -> None:
    policy, multipliers = trained.solve(alpha, GAMMA, np.array([limit]))
    assert cells_with_audio(eight_cells, policy) == cells
    assert (multipliers > 0).tolist() == [limit == LIMIT and alpha < 2]  # where cell 6 pays, and may not


def test_the_limits_are_the_tasks_unless_others_are_given(trained: ConditionedPolicy) -> None:
    own, given = trained.solve(0.6, GAMMA), trained.solve(0.6, GAMMA, np.array([LIMIT]))
    assert own[1].tolist() == given[1].tolist()


def test_prices_that_are_folded_into_the_bias_are_those_of_the_inputs(trained: ConditionedPolicy, task: Task) -> None:
    rows = np.arange(50)
    alpha, gamma, multiplier = 0.7, 0.05, 3.0
    scaled = np.array([2 * 0.7 / 2 - 1, 2 * 0.05 / 0.2 - 1, 2 * np.log1p(3.0) / np.log1p(trained.maximum) - 1])
    inputs = np.concatenate([task.rows.flat(rows), np.tile(scaled, (50, 1))], axis=1).astype(np.float32)
    expected = trained.network.probabilities(torch.from_numpy(inputs)).detach().numpy()
    policy = trained.at(alpha, gamma, np.array([multiplier]))
    np.testing.assert_allclose(policy.probabilities(task.rows.split.observation(rows)), expected, atol=1e-5)


@pytest.mark.parametrize(("alpha", "gamma", "told"), [(2.5, 0.1, "alpha between 0 and 2"), (1.0, 0.3, "gamma between")])
def test_a_price_beyond_those_of_training_is_refused(
    trained: ConditionedPolicy, alpha: float, gamma: float, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"trained for {told}.*train one for more"):
        trained.solve(alpha, gamma)


@pytest.mark.parametrize("limits", [[0.1, 0.2], [], ["x"], [-1.0], float("nan")])
def test_limits_that_are_not_one_number_per_constraint_are_refused(trained: ConditionedPolicy, limits: Any) -> None:
    with pytest.raises(ConfigError, match=r"lagrangian.limit must be .*; use e\.g\. 0\.003"):
        trained.solve(0.6, GAMMA, limits)


def test_the_network_of_another_task_is_refused(trained: ConditionedPolicy, task: Task, tmp_path: Path) -> None:
    trained.save(tmp_path)
    exact, lagrangian = task.config.exact, task.config.lagrangian
    for config, told in (
        (replace(task.config, exact=replace(exact, activation="tanh")), "activation relu there, tanh here"),
        (replace(task.config, lagrangian=replace(lagrangian, maximum=80.0)), r"maximum 20\.0 there, 80\.0 here"),
    ):
        with pytest.raises(CheckpointError, match=rf"is of another task \({told}\); give its own, or delete"):
            ConditionedPolicy.load(tmp_path, Task(task.rows, task.rows, config, seed=0))


def test_a_network_comes_back_from_disk(trained: ConditionedPolicy, task: Task, tmp_path: Path) -> None:
    trained.save(tmp_path)
    again = ConditionedPolicy.load(tmp_path, task)
    assert again.prices == trained.prices
    for name, value in trained.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)


def test_a_damaged_network_is_refused(trained: ConditionedPolicy, task: Task, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing, damaged or of another task"):
        ConditionedPolicy.load(tmp_path, task)
    trained.save(tmp_path)
    with open(tmp_path / "network.safetensors", "ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match="wrong checksum; delete"):
        ConditionedPolicy.load(tmp_path, task)
