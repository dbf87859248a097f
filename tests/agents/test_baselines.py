from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.baselines import Always, ConfidenceThreshold, Never, Oracle, Random, TypeMajority, _best_threshold
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable


@pytest.fixture(scope="module")
def train(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("train"), RewardConfig())


@pytest.fixture(scope="module")
def held_out(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("test"), RewardConfig())


def _utility(rows: OutcomeBatches, actions: np.ndarray) -> float:
    return float(rows.reward[np.arange(len(rows)), actions].mean())


def test_always_and_never_do_what_they_say(train: OutcomeBatches, held_out: OutcomeBatches) -> None:
    assert set(Always().fit(train).decide(held_out)) == {1}
    assert set(Never().fit(train).decide(held_out)) == {0}


def test_random_matches_the_usage_and_repeats_with_its_seed(held_out: OutcomeBatches) -> None:
    policy = Random.matched(np.array([[0, 1, 0, 0], [0, 0, 0, 1]]), 2, seed=3)
    assert policy.shares.tolist() == [0.75, 0.25]
    actions = policy.decide(held_out)
    assert actions.mean() == pytest.approx(0.25, abs=0.08)
    assert np.array_equal(actions, policy.decide(held_out))


def test_random_refuses_shares_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"shares must be >= 0 and sum to 1, got \[0\.5, 0\.6\]"):
        Random(np.array([0.5, 0.6]))


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


def test_confidence_threshold_without_confidence_is_the_better_constant(
    make_table: Callable[..., OutcomeTable],
) -> None:
    rows = OutcomeBatches(make_table(router=True).split("train"), RewardConfig(alpha=0.0, gamma=0.0))
    assert set(ConfidenceThreshold().fit(rows).decide(rows)) == {1}
    rows = OutcomeBatches(make_table(router=True).split("train"), RewardConfig(alpha=50.0))
    assert set(ConfidenceThreshold().fit(rows).decide(rows)) == {0}


def test_type_majority_uses_audio_for_audio_questions_and_skips_types_never_seen(
    train: OutcomeBatches, held_out: OutcomeBatches
) -> None:
    baseline = TypeMajority().fit(train)
    assert baseline.action_of == {"audio": 1, "vl": 0}
    assert np.array_equal(baseline.decide(held_out), (held_out.split.types == "audio").astype(int))
    del baseline.action_of["audio"]
    assert set(baseline.decide(held_out)) == {0}


def test_the_oracle_bounds_every_other_baseline(train: OutcomeBatches, held_out: OutcomeBatches) -> None:
    best = _utility(held_out, Oracle().fit(train).decide(held_out))
    assert best == pytest.approx(held_out.reward.max(axis=1).mean())
    for baseline in (Always(), Never(), Random(np.array([0.5, 0.5])), ConfidenceThreshold(), TypeMajority()):
        assert best >= _utility(held_out, baseline.fit(train).decide(held_out))
