from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.baselines import Always, Never
from agents.threshold_baselines import (
    ConfidenceThreshold,
    EntropyThreshold,
    MarginThreshold,
    _best_threshold,
    has_confidence,
)
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable


@pytest.fixture(scope="module")
def train(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("train"), RewardConfig())


@pytest.fixture(scope="module")
def held_out(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("test"), RewardConfig())


@pytest.fixture(scope="module")
def sure(make_table: Callable[..., OutcomeTable]) -> OutcomeTable:
    """A table with the confidence features of a build."""
    return make_table(sure=True)


def _utility(rows: OutcomeBatches, actions: np.ndarray) -> float:
    return float(rows.reward[np.arange(len(rows)), actions].mean())


def test_best_threshold_keeps_equal_values_together() -> None:
    # From the top: 3 -> 1; both 2s -> 1 - 5 + 3 = -1; 1 -> 1. The best is 3 alone, and not the good one of the 2s.
    assert _best_threshold(np.array([2.0, 3.0, 2.0, 1.0]), np.array([-5.0, 1.0, 3.0, 2.0])) == (1.0, 3.0)


def test_confidence_threshold_finds_the_feature_that_tells_and_beats_the_constants(
    train: OutcomeBatches, held_out: OutcomeBatches
) -> None:
    baseline = ConfidenceThreshold().fit(train)
    assert (baseline.column, baseline.sign) == (1, -1)  # low confidence means that the base is wrong
    utility = _utility(held_out, baseline.decide(held_out))
    assert utility > _utility(held_out, Always().decide(held_out))
    assert utility > _utility(held_out, Never().decide(held_out))


def test_confidence_threshold_is_the_best_of_all_thresholds_on_its_rows(train: OutcomeBatches) -> None:
    found = _utility(train, ConfidenceThreshold().fit(train).decide(train))
    confidence = np.asarray(train.split.features["confidence"])
    for column in range(2):
        for threshold in np.quantile(confidence[:, column], np.linspace(0, 1, 30)):
            assert found >= _utility(train, (confidence[:, column] <= threshold).astype(int)) - 1e-6
            assert found >= _utility(train, (confidence[:, column] >= threshold).astype(int)) - 1e-6


def test_the_threshold_itself_uses_audio_and_the_score_is_the_distance_to_it(train: OutcomeBatches) -> None:
    baseline = ConfidenceThreshold().fit(train)
    values = np.asarray(train.split.features["confidence"], dtype=np.float64)[:, 1]
    assert np.array_equal(baseline.decide(train), (values <= baseline.threshold).astype(int))
    assert (values == baseline.threshold).any()
    assert baseline.scores(train)[:, 0] == pytest.approx(baseline.threshold - values)


def test_confidence_threshold_without_confidence_is_the_better_constant(
    make_table: Callable[..., OutcomeTable],
) -> None:
    rows = OutcomeBatches(make_table(router=True).split("train"), RewardConfig(alpha=0.0, gamma=0.0))
    assert set(ConfidenceThreshold().fit(rows).decide(rows)) == {1}
    rows = OutcomeBatches(make_table(router=True).split("train"), RewardConfig(alpha=50.0))
    assert set(ConfidenceThreshold().fit(rows).decide(rows)) == {0}


def test_entropy_listens_where_it_is_high_and_margin_where_it_is_low(sure: OutcomeTable) -> None:
    train = OutcomeBatches(sure.split("train"), RewardConfig())
    rows = OutcomeBatches(sure.split("test"), RewardConfig())
    confidence = np.asarray(rows.split.features["confidence"], dtype=np.float64)
    entropy, margin = EntropyThreshold().fit(train), MarginThreshold().fit(train)
    assert (entropy.column, entropy.sign, margin.column, margin.sign) == (0, 1, 2, -1)
    assert np.array_equal(entropy.decide(rows), (confidence[:, 0] >= entropy.threshold).astype(int))
    assert np.array_equal(margin.decide(rows), (confidence[:, 2] <= margin.threshold).astype(int))
    for baseline in (entropy, margin):
        assert _utility(rows, baseline.decide(rows)) > _utility(rows, Never().decide(rows))


def test_thresholds_never_look_at_the_wrong_side(sure: OutcomeTable) -> None:
    """Where being sure of an answer meant that audio helps, entropy would rather never listen than turn around."""
    rows = OutcomeBatches(sure.split("train"), RewardConfig(alpha=0.0, gamma=0.0))
    rows.reward[:] = 0.0
    rows.reward[:, 1] = np.where(rows.split.features["confidence"][:][:, 0] < 0, 1.0, -3.0)
    assert set(EntropyThreshold().fit(rows).decide(rows)) == {0}
    assert ConfidenceThreshold().fit(rows).sign == -1


def test_of_several_budgets_the_best_is_taken(make_table: Callable[..., OutcomeTable]) -> None:
    table = make_table(sure=True, budgets=2)
    rows = OutcomeBatches(table.split("train"), RewardConfig())
    rows.reward[:, 2] = rows.reward[:, 1] + 0.1
    baseline = EntropyThreshold().fit(rows)
    assert set(baseline.decide(rows)) == {0, 2}
    assert baseline.scores(rows).shape == (len(rows), 2)


def test_confidence_features_of_another_meaning_are_refused(train: OutcomeBatches, sure: OutcomeTable) -> None:
    assert not has_confidence(train)
    assert has_confidence(OutcomeBatches(sure.split("train"), RewardConfig()))
    with pytest.raises(ValueError, match=r"the table has 2 confidence features, the margin threshold needs the 6"):
        MarginThreshold().fit(train)
