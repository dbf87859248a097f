from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.metrics.calibration import Calibration, cross_fitted
from agents.metrics.resamples import Resamples
from envs.batch import OutcomeBatches
from envs.config import RewardConfig

FREE = RewardConfig(alpha=0.0, gamma=0.0)


def calibration(rows: OutcomeBatches, count: int = 200) -> Calibration:
    return Calibration(rows, Resamples(rows.split.group, count))


def test_error_and_brier_score_of_use_are_computed_by_hand(rows_of: Callable[..., OutcomeBatches]) -> None:
    """Audio is right on the first and the third question; 0.2 and 0.21 share a bin of width 1/15, 0.9 has its own."""
    rows = rows_of([[0, 1], [1, 1], [0, 1], [1, 0]], reward=FREE)
    found = calibration(rows).of_use(np.array([[0.2, 0.21, 0.9, 0.9]]), np.array(1))
    assert found["use_brier"]["mean"] == pytest.approx((0.8**2 + 0.21**2 + 0.1**2 + 0.9**2) / 4)
    assert found["use_ece"]["mean"] == pytest.approx((abs(1 - 0.41) + abs(1 - 1.8)) / 4)


def test_audio_is_right_where_it_pays_for_itself(rows_of: Callable[..., OutcomeBatches]) -> None:
    """With a price on latency, an answer that does not change is a loss, and at a high price every answer is."""
    score = [[0, 1], [1, 1]]
    for alpha, right in ((0.6, [1.0, 0.0]), (50.0, [0.0, 0.0])):
        rows = rows_of(score, reward=RewardConfig(alpha=alpha))
        assert calibration(rows).of_use(np.array([right]), np.array(1))["use_brier"]["mean"] == 0.0


def test_of_several_budgets_the_one_that_is_taken_is_judged(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of([[0, 0, 1], [0, 1, 0]], reward=FREE)
    judged = calibration(rows)
    assert judged.of_use(np.array([[1.0, 1.0]]), np.array([2, 1]))["use_brier"]["mean"] == 0.0
    assert judged.of_use(np.array([[1.0, 1.0]]), np.array([1, 2]))["use_brier"]["mean"] == 1.0


def test_chances_that_are_right_on_average_have_a_small_error(rows_of: Callable[..., OutcomeBatches]) -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(8000)
    rows = rows_of(np.stack([np.zeros(8000), rng.random(8000) < chances], axis=1), reward=FREE)
    judged = calibration(rows)
    good, bad = (judged.of_use(p[None], np.array(1)) for p in (chances, 1 - chances))
    assert good["use_ece"]["mean"] < 0.03
    assert good["use_brier"]["mean"] == pytest.approx(1 / 6, abs=0.01)  # the mean of p (1 - p)
    assert bad["use_ece"]["mean"] == pytest.approx(0.5, abs=0.03)
    assert bad["use_brier"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert good["use_brier"]["low"] < 1 / 6 < good["use_brier"]["high"]


def test_chances_outside_of_zero_and_one_are_refused(rows_of: Callable[..., OutcomeBatches]) -> None:
    with pytest.raises(ValueError, match=r"chances must lie in \[0, 1\], got -0\.5 to 0\.5"):
        calibration(rows_of([[0, 1], [1, 1]])).of_use(np.array([[-0.5, 0.5]]), np.array(1))


def test_a_number_that_tells_benefit_and_harm_scores_better_than_one_that_does_not(
    rows_of: Callable[..., OutcomeBatches],
) -> None:
    rng = np.random.default_rng(0)
    kind = rng.normal(size=4000)
    base = rng.random(4000) < np.where(kind > 0, 0.2, 0.95)
    use = np.where(kind > 0, rng.random(4000) < 0.9, base & (rng.random(4000) < 0.8))
    rows = rows_of(np.stack([base, use], axis=1))
    benefit, harm = ~base & use, base & ~use
    judged = calibration(rows)
    told, noise = (judged.of_outcomes(values, np.array(1)) for values in (kind, rng.normal(size=4000)))
    for name, event in (("benefit", benefit), ("harm", harm)):
        rate = event.mean()
        assert noise[f"{name}_brier"]["mean"] == pytest.approx(rate * (1 - rate), rel=0.05)
        assert told[f"{name}_brier"]["mean"] < 0.96 * noise[f"{name}_brier"]["mean"]
        assert told[f"{name}_ece"]["mean"] < 0.03
    expected = np.where(kind > 0, benefit[kind > 0].mean(), benefit[kind <= 0].mean())
    best = ((benefit - expected) ** 2).mean()
    assert told["benefit_brier"]["mean"] == pytest.approx(best, rel=0.05)


def test_no_row_judges_what_it_helped_to_fit() -> None:
    """Labels are noise: a map that had seen them would follow them, as isotonic regression on few rows does."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(30):
        events = (rng.random(40) < 0.5).astype(float)
        told = cross_fitted(rng.normal(size=40), events, rng.permutation(40) % 2 == 0)
        errors.append(((told - events) ** 2).mean())
    assert np.mean(errors) > 0.25  # what telling 0.5 of everything would score


def test_a_probability_may_also_fall_with_the_number() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(2000)
    events = (rng.random(2000) < 1 - scores).astype(float)
    told = cross_fitted(scores, events, np.arange(2000) % 2 == 0)
    assert np.corrcoef(told, 1 - scores)[0, 1] > 0.97


def test_infinite_scores_and_a_single_group_are_welcome() -> None:
    scores = np.array([-np.inf, 0.0, np.inf, np.inf])
    events = np.array([0.0, 0.0, 1.0, 1.0])
    assert cross_fitted(scores, events, np.array([True, False, True, False])).tolist() == [0, 0.5, 1, 1]  # half-way
    assert cross_fitted(scores, events, np.ones(4, dtype=bool)).tolist() == [0.5] * 4
