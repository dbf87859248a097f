from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from agents.baselines import Always, Baseline, Never
from agents.learned_baselines import LogisticRegression, NearestNeighbours, SupervisedMLP
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable

LEARNERS = [LogisticRegression, NearestNeighbours, SupervisedMLP]


def _utility(rows: OutcomeBatches, actions: np.ndarray) -> float:
    return float(rows.reward[np.arange(len(rows)), actions].mean())


@pytest.fixture(scope="module")
def train(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("train"), RewardConfig())


@pytest.fixture(scope="module")
def held_out(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("test"), RewardConfig())


@pytest.mark.parametrize("learner", LEARNERS)
def test_what_is_learned_beats_the_constants_on_other_rows(
    learner: type[Baseline], train: OutcomeBatches, held_out: OutcomeBatches
) -> None:
    utility = _utility(held_out, learner().fit(train).decide(held_out))
    assert utility > max(_utility(held_out, constant.decide(held_out)) for constant in (Always(), Never())) + 0.02


@pytest.mark.parametrize("learner", LEARNERS)
def test_learning_repeats_to_the_bit(learner: type[Baseline], train: OutcomeBatches, held_out: OutcomeBatches) -> None:
    first, second = (learner().fit(train).scores(held_out) for _ in range(2))
    assert first.shape == (len(held_out), 1)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("options", [{"budgets": 3}, {"router": True}, {"retention": False}, {"rows": {0: 3, 3: 5}}])
def test_every_kind_of_table_can_be_learned_from(
    learner: type[Baseline], options: dict[str, object], make_table: Callable[..., OutcomeTable]
) -> None:
    table = make_table(**options)
    train, rows = (OutcomeBatches(table.split(name), RewardConfig()) for name in ("train", "test"))
    baseline = learner().fit(train)
    assert baseline.scores(rows).shape == (len(rows), len(table.actions) - 1)
    assert set(baseline.decide(rows)) <= set(range(len(table.actions)))


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize(("alpha", "action"), [(-5.0, 1), (50.0, 0)])
def test_where_audio_always_or_never_pays_it_is_always_or_never_used(
    learner: type[Baseline], alpha: float, action: int, table: OutcomeTable
) -> None:
    train, rows = (OutcomeBatches(table.split(name), RewardConfig()) for name in ("train", "test"))
    for each in (train, rows):
        each.reward[:] = each.terms.matrix(alpha)
    assert set(learner().fit(train).decide(rows)) == {action}


def test_logistic_regression_weighs_a_mistake_by_what_it_costs(train: OutcomeBatches) -> None:
    """Nine rows in ten gain 0.01, the tenth loses 1: most answers are yes, the right one is no."""
    rows = OutcomeBatches(train.split, RewardConfig())
    gain = np.where(np.arange(len(rows)) % 10 == 0, -1.0, 0.01)
    rows.reward[:] = np.stack([np.zeros(len(rows)), gain], axis=1)
    assert LogisticRegression(strength=1e-6).fit(rows).decide(rows).mean() < 0.01
    rows.reward[:, 1] = np.sign(gain)  # the same signs, all of one weight
    assert LogisticRegression(strength=1e-6).fit(rows).decide(rows).mean() > 0.99


def test_the_nearest_neighbour_of_a_train_row_is_itself(train: OutcomeBatches) -> None:
    scores = NearestNeighbours(neighbours=1).fit(train).scores(train)[:, 0]
    assert scores == pytest.approx(train.reward[:, 1] - train.reward[:, 0], abs=1e-6)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_large_table_is_sampled(learner: type, make_table: Callable[..., OutcomeTable]) -> None:
    """What is learned from the sample of a table is what is learned from a table that is the sample."""
    from agents.baselines import some_rows

    train = OutcomeBatches(make_table().split("train"), RewardConfig())
    capped = learner(cap=80).fit(train).scores(train)
    at = some_rows(len(train), 80)
    assert at.min() < 100 < 500 < at.max()
    train.reward[np.setdiff1d(np.arange(len(train)), at)] = 7.0  # rows outside of the sample do not count
    assert np.array_equal(learner(cap=80).fit(train).scores(train), capped)


def test_a_network_has_the_layers_that_it_is_given(train: OutcomeBatches) -> None:
    network = SupervisedMLP((16, 8)).fit(train)
    assert [weights.shape for weights in network._model.coefs_] == [(11, 16), (16, 8), (8, 1)]


@pytest.mark.slow
def test_all_of_them_take_seconds_on_ten_thousand_rows_of_300_features(
    make_table: Callable[..., OutcomeTable],
) -> None:
    table = make_table({0: 10_000, 3: 4000})
    rng = np.random.default_rng(0)
    train, rows = (OutcomeBatches(table.split(name), RewardConfig()) for name in ("train", "test"))
    for each in (train, rows):
        assert each._kept is not None
        each._kept["question"] = rng.normal(size=(len(each), 300)).astype(np.float32)
    start = time.process_time()
    for learner in LEARNERS:
        learner().fit(train).scores(rows)
    assert time.process_time() - start < 20  # about four on an idle core
