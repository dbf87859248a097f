from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.baselines import (
    Always,
    Baseline,
    Never,
    Oracle,
    Random,
    ScoreOracle,
    TypeMajority,
    decide,
    decide_as_often,
    paying,
    some_rows,
)
from agents.threshold_baselines import ConfidenceThreshold
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


def test_decisions_take_the_best_paying_action_above_zero_and_the_cheaper_of_two_equals() -> None:
    scores = np.array([[-1.0, -2.0], [0.0, 0.0], [0.5, 2.0], [1.0, 1.0], [-np.inf, 0.1]])
    assert decide(scores).tolist() == [0, 0, 2, 1, 2]
    assert paying(scores).tolist() == [1, 1, 2, 1, 2]


def test_deciding_as_often_takes_exactly_the_highest_scores() -> None:
    scores = np.array([[3.0, -1.0], [-5.0, -4.0], [0.0, 1.0], [2.0, 2.5]])
    assert decide_as_often(scores, 2).tolist() == [1, 0, 0, 2]
    assert decide_as_often(scores, 0).tolist() == [0, 0, 0, 0]
    assert decide_as_often(scores, 4).tolist() == [1, 2, 2, 2]  # also where it expects a loss


def test_equal_scores_are_drawn_and_not_taken_in_the_order_of_the_rows() -> None:
    actions = [decide_as_often(np.zeros((1000, 1)), 500, seed) for seed in (0, 0, 1)]
    assert [int(taken.sum()) for taken in actions] == [500, 500, 500]
    assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    assert actions[0][:500].sum() == pytest.approx(250, abs=60)


def test_another_baseline_is_one_method(held_out: OutcomeBatches) -> None:
    class LongClip(Baseline):
        def scores(self, rows: OutcomeBatches) -> np.ndarray:
            return np.asarray(rows.split.features["audio_preview"])[:, :1] - 0.5

    expected = np.asarray(held_out.split.features["audio_preview"])[:, 0] > 0.5
    assert np.array_equal(LongClip().fit(held_out).decide(held_out), expected.astype(int))


def test_always_and_never_do_what_they_say(train: OutcomeBatches, held_out: OutcomeBatches) -> None:
    assert set(Always().fit(train).decide(held_out)) == {1}
    assert set(Never().fit(train).decide(held_out)) == {0}


def test_of_several_budgets_always_takes_the_largest(make_table: Callable[..., OutcomeTable]) -> None:
    rows = OutcomeBatches(make_table(budgets=3).split("test"), RewardConfig())
    assert set(Always().decide(rows)) == {3}
    assert set(Never().decide(rows)) == {0}


def test_random_matches_the_usage_and_repeats_with_its_seed(held_out: OutcomeBatches) -> None:
    policy = Random.matched(np.array([[0, 1, 0, 0], [0, 0, 0, 1]]), 2, seed=3)
    assert policy.shares.tolist() == [0.75, 0.25]
    actions = policy.decide(held_out)
    assert actions.mean() == pytest.approx(0.25, abs=0.08)
    assert np.array_equal(actions, policy.decide(held_out))


def test_random_takes_every_budget_as_often_as_it_was_told(make_table: Callable[..., OutcomeTable]) -> None:
    rows = OutcomeBatches(make_table({0: 30, 3: 4000}, budgets=2).split("test"), RewardConfig())
    actions = Random(np.array([0.5, 0.1, 0.4])).decide(rows)
    assert np.bincount(actions) / len(actions) == pytest.approx([0.5, 0.1, 0.4], abs=0.03)
    for shares, only in (([1.0, 0.0, 0.0], {0}), ([0.0, 0.0, 1.0], {2})):
        assert set(Random(np.array(shares)).decide(rows)) == only


def test_random_refuses_shares_that_are_none(held_out: OutcomeBatches) -> None:
    with pytest.raises(ValueError, match=r"shares must be >= 0 and sum to 1, got \[0\.5, 0\.6\]"):
        Random(np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match=r"shares has 3 entries, but the rows have 2 actions"):
        Random(np.array([0.2, 0.2, 0.6])).decide(held_out)


def test_type_majority_uses_audio_for_audio_questions_and_skips_types_never_seen(
    train: OutcomeBatches, held_out: OutcomeBatches
) -> None:
    baseline = TypeMajority().fit(train)
    audio = train.split.types == "audio"
    gain = (train.reward[:, 1] - train.reward[:, 0])[audio].mean()
    assert baseline.gain_of["audio"] == pytest.approx([gain])
    assert baseline.gain_of["vl"] < 0
    assert np.array_equal(baseline.decide(held_out), (held_out.split.types == "audio").astype(int))
    del baseline.gain_of["audio"]
    assert set(baseline.decide(held_out)) == {0}


def test_type_majority_counts_on_a_sample_of_a_large_table(train: OutcomeBatches, held_out: OutcomeBatches) -> None:
    baseline = TypeMajority(cap=100).fit(train)
    seen = some_rows(len(train), 100)
    assert len(seen) == len(set(seen.tolist())) == 100
    audio = train.split.types[seen] == "audio"
    gain = (train.reward[:, 1] - train.reward[:, 0])[seen][audio].mean()
    assert baseline.gain_of["audio"] == pytest.approx([gain])
    assert np.array_equal(baseline.decide(held_out), (held_out.split.types == "audio").astype(int))


def test_a_table_without_types_has_one_type(make_table: Callable[..., OutcomeTable]) -> None:
    rows = OutcomeBatches(make_table(types=False).split("train"), RewardConfig(alpha=0.0, gamma=0.0))
    baseline = TypeMajority().fit(rows)
    assert list(baseline.gain_of) == [""]
    assert set(baseline.decide(rows)) == {1}


def test_the_oracle_bounds_every_other_baseline(train: OutcomeBatches, held_out: OutcomeBatches) -> None:
    best = _utility(held_out, Oracle().fit(train).decide(held_out))
    assert best == pytest.approx(held_out.reward.max(axis=1).mean())
    others = (Always(), Never(), Random(np.array([0.5, 0.5])), ConfidenceThreshold(), TypeMajority(), ScoreOracle())
    for baseline in others:
        assert best >= _utility(held_out, baseline.fit(train).decide(held_out))


def test_the_score_oracle_listens_wherever_that_raises_the_score_at_any_price(
    make_table: Callable[..., OutcomeTable],
) -> None:
    rows = OutcomeBatches(make_table().split("test"), RewardConfig(alpha=100.0))
    assert set(Oracle().decide(rows)) == {0}
    score = rows.split.score
    assert np.array_equal(ScoreOracle().decide(rows), (score[:, 1] > score[:, 0]).astype(int))
