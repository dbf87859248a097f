from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.config import AgentConfig, LagrangianConfig, SmoothingConfig
from agents.outcome_model import SmoothedBatches, learnable
from agents.task import Task
from envs.batch import OutcomeBatches
from envs.known_optimum import KnownTable
from envs.outcomes import OutcomeTable, TableSplit

CONFIG = AgentConfig(smoothing=SmoothingConfig(trees=5), lagrangian=LagrangianConfig(limit=0.05))
RAW = dataclasses.replace(CONFIG, smoothing=SmoothingConfig(trees=0))


def _task(table: OutcomeTable, config: AgentConfig = CONFIG) -> Task:
    rows = learnable(table.split("train"), config.reward, config.smoothing)
    held_out = OutcomeBatches(table.split("validation"), config.reward, rows.normaliser)
    return Task(rows, held_out, config, seed=0)


class _Always:
    """Uses audio on every question."""

    def probabilities(self, observations: Any) -> Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(observations), 2)

    def state_dict(self) -> dict[str, Tensor]:
        return {}


def _drop(split: TableSplit) -> float:
    members = split.retention_set == 0
    return float((split.score[members, 0] - split.score[members, 1]).mean(dtype=np.float64))


def test_costs_are_what_happened_on_held_out_rows_and_what_is_expected_of_train_rows(table: OutcomeTable) -> None:
    task, train, held_out = _task(table), table.split("train"), table.split("validation")
    expected = float(task.rows.facts(np.arange(len(train)))[2][:, 0, 1].sum(dtype=np.float64))
    asked, learned = (int((split.retention_set == 0).sum()) for split in (held_out, train))
    pooled = (learned * expected / len(train) + asked * _drop(held_out)) / (learned + asked)
    assert task.retention.n_rows == len(train) + len(held_out)
    assert task.retention.decided_cost(_Always())[0] == pytest.approx([pooled], rel=1e-5)
    assert abs(expected / len(train) - _drop(train)) > 1e-5  # forests that have not seen a row do not know it
    assert abs(pooled - _drop(held_out)) > 1e-3


def test_costs_are_measured_on_held_out_rows_alone_where_single_outcomes_are_learned(table: OutcomeTable) -> None:
    task, held_out = _task(table, RAW), table.split("validation")
    assert task.retention.n_rows == len(held_out)
    assert task.retention.decided_cost(_Always())[0] == pytest.approx([_drop(held_out)], rel=1e-5)
    assert task.reachable is None


@pytest.mark.parametrize("learned", [0, 1])
def test_train_rows_without_retention_questions_do_not_dilute_the_cost(table: OutcomeTable, learned: int) -> None:
    train, held_out = table.split("train"), table.split("validation")
    members, others = (np.flatnonzero((train.retention_set == 0) == own) for own in (True, False))
    few = TableSplit(table, "train", train.rows[np.sort(np.append(others, members[:learned]))])
    rows = learnable(few, CONFIG.reward, CONFIG.smoothing)
    task = Task(rows, OutcomeBatches(held_out, CONFIG.reward, rows.normaliser), CONFIG, seed=0)
    asked = int((held_out.retention_set == 0).sum())
    assert task.retention.n_rows == len(few) + len(held_out)
    assert abs(task.retention.decided_cost(_Always())[0][0] - _drop(held_out)) <= learned * 2 / (asked + learned) + 1e-6


def test_train_rows_do_not_outvote_held_out_ones(make_table: Callable[..., OutcomeTable]) -> None:
    assert _task(make_table({0: 600, 1: 100, 3: 10})).retention.n_rows == 3 * 100


@pytest.mark.parametrize(("most", "measured"), [(250, 250), (90, 100)])
def test_no_more_than_so_many_rows_are_measured_beyond_the_held_out_ones(
    make_table: Callable[..., OutcomeTable], monkeypatch: pytest.MonkeyPatch, most: int, measured: int
) -> None:
    monkeypatch.setattr("agents.task.MEASURED_ROWS", most)
    assert _task(make_table({0: 600, 1: 100, 3: 10})).retention.n_rows == measured


def test_the_margin_is_that_of_what_happened_on_train_rows_too(table: OutcomeTable) -> None:
    mean, cautious = _task(table).retention.decided_cost(_Always())
    split = [table.split(name) for name in ("train", "validation")]
    sets, score = (np.concatenate([getattr(part, name) for part in split]) for name in ("retention_set", "score"))
    rate = (sets == 0).mean()
    square = np.mean(((score[:, 0] - score[:, 1]) * (sets == 0) / rate) ** 2)
    error = np.sqrt((square - mean[0] ** 2) / len(sets))
    assert cautious[0] - mean[0] == pytest.approx(CONFIG.lagrangian.margin * error, rel=1e-4)


def test_train_rows_that_are_not_learned_from_are_not_measured(table: OutcomeTable) -> None:
    config = dataclasses.replace(CONFIG, smoothing=SmoothingConfig(trees=5, max_rows=40))
    assert _task(table, config).retention.n_rows == 40 + len(table.split("validation"))


@pytest.mark.parametrize("config", [CONFIG, RAW])
def test_utility_is_judged_by_what_really_happened_on_held_out_rows_alone(
    table: OutcomeTable, config: AgentConfig
) -> None:
    selection, held_out = _task(table, config).selection, table.split("validation")
    judgement = selection.consider(1, _Always())
    extra = (held_out.latency_ms[:, 1] - held_out.latency_ms[:, 0]) / table.latency_unit_ms
    reward = held_out.score[:, 1] - 0.6 * extra - 0.1 * (held_out.retention_set >= 0)
    assert judgement.utility == pytest.approx(reward.mean(), abs=1e-6)
    assert len(selection.actions) == len(held_out)


def test_the_multiplier_starts_where_the_greedy_policy_keeps_the_limit(eight_cells: KnownTable) -> None:
    config = dataclasses.replace(CONFIG, lagrangian=LagrangianConfig(limit=0.012, margin=0.5))
    task = _task(eight_cells.table, config)
    (price,) = task.multipliers
    # By the true means cell 6 leaves at 0.06 / 0.1895 = 0.317, cell 5 at 0.058 / 0.0253 = 2.3.
    assert 0.2 < price < 0.5
    assert (
        price
        > _task(eight_cells.table, dataclasses.replace(config, lagrangian=LagrangianConfig(limit=0.2))).multipliers
    )

    held_out = OutcomeBatches(eight_cells.table.split("validation"), config.reward)
    assert isinstance(task.rows, SmoothedBatches)
    model = SmoothedBatches(held_out.split, config.reward, task.rows.model, task.rows.normaliser)

    def spent(multiplier: float) -> float:
        """What the greedy policy costs at a price, with the margin: held out as it happened, train as expected."""
        costs = []
        for expected, paid in ((model, held_out), (task.rows, task.rows)):
            every = np.arange(len(expected))
            reward, cost = expected.matrices(every)
            worth = reward - multiplier * cost[:, 0]
            costs.append(paid.facts(every)[2][:, 0, 1] * (worth[:, 1] > worth[:, 0]))
        both = np.concatenate(costs)
        return float(both.mean(dtype=np.float64) + 0.5 * both.std(dtype=np.float64) / np.sqrt(len(both)))

    assert spent(price + 2e-3) <= 0.012 < spent(price - 2e-3)


def test_a_multiplier_that_is_given_is_where_it_starts(table: OutcomeTable) -> None:
    config = dataclasses.replace(CONFIG, lagrangian=LagrangianConfig(limit=0.05, initial=1.25))
    assert _task(table, config).multipliers.tolist() == [1.25]


def test_constraints_that_are_off_have_no_price_and_do_not_choose(table: OutcomeTable) -> None:
    config = dataclasses.replace(CONFIG, lagrangian=LagrangianConfig(limit=0.0, maximum=0.0))
    task = _task(table, config)
    assert task.multipliers.tolist() == [0.0]
    assert task.selection.consider(1, _Always()).cost == []


def test_what_is_reachable_is_what_the_best_expected_actions_really_earn(eight_cells: KnownTable) -> None:
    config = dataclasses.replace(CONFIG, lagrangian=LagrangianConfig(limit=1.0))
    task, held_out = _task(eight_cells.table, config), eight_cells.table.split("validation")
    use = np.isin(eight_cells.cells[held_out.rows], [2, 3, 5, 6])  # where audio is worth its price
    reward = OutcomeBatches(held_out, config.reward).reward
    assert task.reachable == pytest.approx(np.where(use, reward[:, 1], reward[:, 0]).mean(dtype=np.float64))


def test_limits_of_the_wrong_number_are_refused(table: OutcomeTable) -> None:
    config = dataclasses.replace(CONFIG, lagrangian=LagrangianConfig(limit=(0.1, 0.2)))
    with pytest.raises(ValueError, match=r"lagrangian\.limit must be one number or 1 .*got 2: \[0\.1, 0\.2\]"):
        _task(table, config)


def test_a_table_without_retention_questions_is_a_task_without_limits(make_table: Callable[..., OutcomeTable]) -> None:
    task = _task(make_table(retention=False))
    assert (len(task.limits), len(task.multipliers)) == (0, 0)
    assert task.selection.consider(1, _Always()).feasible
