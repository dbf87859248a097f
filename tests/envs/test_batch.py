from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import random_problem, write_known_table
from envs.outcomes import OutcomeTable, TableSplit
from envs.reward import RewardTerms, cost_matrix, retention_rates

SOME = np.array([5, 3, 5, 41, 0])


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TableSplit:
    """Sixty rows of two retention sets with three actions."""
    problem = random_problem(0, cells=4, constraints=2, actions=3)
    return write_known_table(tmp_path_factory.mktemp("batch"), problem, {"train": 60, "test": 9}).table.split("train")


def test_facts_of_some_rows_are_those_of_the_table(split: TableSplit) -> None:
    score, irrelevant, cost = OutcomeBatches(split, RewardConfig()).facts(SOME)
    assert np.array_equal(score, split.score[SOME])
    assert irrelevant.tolist() == (split.retention_set[SOME] >= 0).astype(float).tolist()
    rates = retention_rates(split.retention_set, 2)  # of the whole split, not of these rows
    assert np.array_equal(cost, cost_matrix(split.score, split.retention_set, rates)[SOME])


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_matrices_of_some_rows_are_those_of_all_rows_to_the_bit(split: TableSplit, alpha: float) -> None:
    rows = OutcomeBatches(split, RewardConfig(alpha=0.3, gamma=0.2))
    rows.set_alpha(alpha)
    reward, cost = rows.matrices(SOME)
    assert reward.dtype == cost.dtype == np.dtype(np.float32)
    assert np.array_equal(reward, rows.reward[SOME])
    assert np.array_equal(cost, rows.cost[SOME])
    terms = RewardTerms(
        split.score, split.latency_ms, split.retention_set, split.table.latency_unit_ms, RewardConfig(alpha, 0.2)
    )
    assert np.array_equal(rows.reward, terms.matrix())


def test_a_new_alpha_moves_the_reward_of_all_rows(split: TableSplit) -> None:
    rows = OutcomeBatches(split, RewardConfig(alpha=0.0))
    free = rows.reward
    rows.set_alpha(1.0)
    extra = (split.latency_ms - split.latency_ms[:, :1]) / split.table.latency_unit_ms
    np.testing.assert_allclose(free - rows.reward, extra, atol=1e-6)
    assert rows.config.alpha == 1.0


def test_the_outcome_of_an_action_is_its_place_in_the_matrices(split: TableSplit) -> None:
    rows, actions = OutcomeBatches(split, RewardConfig()), np.array([2, 0, 1, 1, 2])
    reward, cost = rows.outcome(SOME, actions)
    assert reward.tolist() == [rows.reward[i, a] for i, a in zip(SOME, actions, strict=True)]
    assert cost.tolist() == [rows.cost[i, :, a].tolist() for i, a in zip(SOME, actions, strict=True)]


def test_audio_tokens_are_paid_for(make_table: Callable[..., Path]) -> None:
    table = OutcomeTable.open(make_table())
    table.header = dataclasses.replace(table.header, action_tokens=(0, 8))
    rows = OutcomeBatches(table.split("train"), RewardConfig(alpha=0.0, gamma=0.0, token_weight=0.4))
    reward, _ = rows.matrices(SOME)
    # The unit is four mean calls of 8 tokens: USE costs 0.4 / 4.
    np.testing.assert_allclose(reward, table.split("train").score[SOME] - [0.0, 0.1], atol=1e-6)


def test_features_read_row_by_row_are_those_kept_in_memory(split: TableSplit) -> None:
    kept, read = OutcomeBatches(split, RewardConfig()), OutcomeBatches(split, RewardConfig(), keep_bytes=0)
    for name, values in kept.observe(SOME).items():
        assert np.array_equal(values, read.observe(SOME)[name])


def test_held_out_rows_are_normalised_like_train_rows(split: TableSplit) -> None:
    train = OutcomeBatches(split, RewardConfig())
    test = OutcomeBatches(split.table.split("test"), RewardConfig())
    given = OutcomeBatches(split.table.split("test"), RewardConfig(), train.normaliser)
    every = np.arange(9)
    assert given.normaliser is train.normaliser
    for name, values in test.observe(every).items():
        assert np.array_equal(values, given.observe(every)[name])
    assert abs(train.observe(np.arange(60))["question"].mean()) < 1e-5
