from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.evaluation import Evaluation
from agents.metrics.pairing import mcnemar, paired
from envs.batch import OutcomeBatches
from envs.config import RewardConfig


def test_mcnemar_counts_the_questions_that_only_one_answers() -> None:
    """Audio alone is right on five questions and wrong on one: p = 2 P(at most 1 of 6 coins) = 2 (1 + 6) / 64."""
    score = np.array([[0, 1]] * 5 + [[1, 0]] + [[1, 1]] * 3 + [[0, 0]] * 2)
    always, never = np.ones((2, 11), dtype=int), np.zeros(11, dtype=int)
    found = mcnemar(score, always, never)
    assert found["only_learned_right"] == [5, 5]
    assert found["only_other_right"] == [1, 1]
    assert found["p_value"] == pytest.approx([14 / 64, 14 / 64])
    swapped = mcnemar(score, never[None], always[0])
    assert (swapped["only_learned_right"], swapped["only_other_right"]) == ([1], [5])


def test_policies_that_answer_alike_do_not_differ(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of(np.random.default_rng(0).random((50, 2)) < 0.5)
    actions = np.random.default_rng(1).integers(2, size=(1, 50))
    found = paired(Evaluation(rows), actions, actions[0])
    assert found["utility"] == found["accuracy"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["mcnemar"] == {"only_learned_right": [0], "only_other_right": [0], "p_value": [1.0]}


def test_the_difference_is_that_of_the_means_and_of_the_same_resamples(rows_of: Callable[..., OutcomeBatches]) -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(rng.random((500, 2)) < (0.5, 0.7), group=np.arange(500) // 2)
    evaluation = Evaluation(rows)
    learned, other = rng.integers(2, size=(3, 500)), rng.integers(2, size=500)
    found = paired(evaluation, learned, other)
    ours, theirs = (evaluation.metrics(actions)["utility"] for actions in (learned, other))
    assert found["utility"]["mean"] == pytest.approx(ours["mean"] - theirs["mean"])
    pairs = [evaluation.samples(actions)["utility"][1] for actions in (learned, other)]
    low, high = np.percentile(pairs[0] - pairs[1], [2.5, 97.5])
    assert (found["utility"]["low"], found["utility"]["high"]) == (pytest.approx(low), pytest.approx(high))


def test_what_both_have_in_common_cancels(rows_of: Callable[..., OutcomeBatches]) -> None:
    """Audio repairs one answer in fifty: two intervals apart would never tell, the paired one does."""
    rng = np.random.default_rng(0)
    base = rng.random(2000) < 0.5
    rows = rows_of(np.stack([base, base | (np.arange(2000) % 50 == 0)], axis=1), reward=RewardConfig(alpha=0.0))
    evaluation = Evaluation(rows)
    always, never = np.ones((1, 2000), dtype=int), np.zeros((1, 2000), dtype=int)
    apart = [evaluation.metrics(actions)["accuracy"] for actions in (always, never)]
    assert apart[0]["low"] < apart[1]["high"]
    assert paired(evaluation, always, never)["accuracy"]["low"] > 0


def test_each_seed_is_compared_with_the_coin_of_the_same_seed(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of([[0, 1], [1, 0], [0, 1]] * 5)
    seeds = np.stack([np.zeros(15), np.ones(15)]).astype(int)
    found = paired(Evaluation(rows), seeds, seeds)
    assert found["utility"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["mcnemar"]["p_value"] == [1.0, 1.0]


def test_soft_scores_have_no_mcnemar(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of([[0, 1], [0.3, 0.6]])
    assert paired(Evaluation(rows), np.ones((1, 2), dtype=int), np.zeros(2, dtype=int))["mcnemar"] is None
