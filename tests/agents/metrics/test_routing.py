from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.metrics.resamples import Resamples
from agents.metrics.routing import CURVE_METRICS, Routing, first_crossing, hull_area, upper_hull
from envs.batch import OutcomeBatches

# Ranked as they stand: audio helps the first, harms the second, helps the third, and does nothing to the fourth.
SCORE = [[0, 1], [1, 0], [0, 1], [0, 0]]
ORDER = np.array([4.0, 3.0, 2.0, 1.0])


def routing(rows: OutcomeBatches, count: int = 200) -> Routing:
    return Routing(rows, Resamples(rows.split.group, count))


def means(rows: OutcomeBatches, scores: np.ndarray, paying: object = 1) -> dict[str, float | None]:
    metrics = routing(rows, count=2).metrics(scores, np.asarray(paying))
    return {name: None if interval is None else interval["mean"] for name, interval in metrics.items()}


def apgr(rows: OutcomeBatches, scores: np.ndarray) -> float:
    found = means(rows, scores)["apgr"]
    assert found is not None
    return found


def test_a_curve_of_four_questions_gives_what_is_computed_by_hand(rows_of: Callable[..., OutcomeBatches]) -> None:
    """Accuracy 1/4, 2/4, 1/4, 2/4, 2/4 over use of 0 to 4 questions; latency 10, 12.5, 15, 17.5, 20."""
    found = means(rows_of(SCORE), ORDER)
    area = (0.375 + 0.375 + 0.375 + 0.5) / 4
    assert found["apgr"] == pytest.approx((area - 0.25) / 0.25)
    assert found["cpt50"] == pytest.approx(0.5 / 4)  # half of the way from 1/4 to 2/4 is reached within the first step
    assert found["cpt80"] == pytest.approx(0.8 / 4)
    assert found["cpt95"] == pytest.approx(0.95 / 4)  # the first time; later the curve falls and rises again
    # The hull leads from (10, 1/4) to (12.5, 2/4) and stays level.
    assert found["aiq"] == pytest.approx((2.5 * 0.375 + 7.5 * 0.5) / 10)


def test_the_other_way_round_the_same_questions_are_ranked_badly(rows_of: Callable[..., OutcomeBatches]) -> None:
    """Accuracy 1/4, 1/4, 2/4, 1/4, 2/4."""
    found = means(rows_of(SCORE), -ORDER)
    assert found["apgr"] == pytest.approx(((0.25 + 0.375 + 0.375 + 0.375) / 4 - 0.25) / 0.25)
    assert found["cpt50"] == pytest.approx(1.5 / 4)


def test_equal_scores_are_worth_what_random_orders_are_on_average(rows_of: Callable[..., OutcomeBatches]) -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(rng.random((40, 2)) < (0.3, 0.8))
    found = means(rows, np.zeros(40))
    assert found["apgr"] == pytest.approx(0.5)
    assert found["cpt80"] == pytest.approx(0.8)
    assert found["aiq"] == pytest.approx(routing(rows).zero_router())
    tied = np.repeat([2.0, 1.0], 20)  # two blocks of equals
    drawn = [apgr(rows, tied + 0.1 * rng.random(40)) for _ in range(300)]
    assert apgr(rows, tied) == pytest.approx(np.mean(drawn), abs=0.02)


def test_infinite_scores_are_equal_scores(rows_of: Callable[..., OutcomeBatches]) -> None:
    """As of the type majority, where a type was never seen."""
    rows = rows_of(SCORE)
    found = means(rows, np.array([1.0, -np.inf, -np.inf, -np.inf]))
    assert found == means(rows, np.array([1.0, 0.0, 0.0, 0.0]))
    assert means(rows, np.full(4, -np.inf))["apgr"] == pytest.approx(0.5)


def test_the_oracle_has_more_than_one_and_a_coin_a_half(rows_of: Callable[..., OutcomeBatches]) -> None:
    rng = np.random.default_rng(0)
    score = rng.random((4000, 2)) < (0.5, 0.8)
    rows = rows_of(score)
    gain = score[:, 1].astype(float) - score[:, 0]
    assert apgr(rows, gain) > 1
    assert apgr(rows, rng.random(4000)) == pytest.approx(0.5, abs=0.05)


def test_only_the_order_of_scores_counts(rows_of: Callable[..., OutcomeBatches]) -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(rng.random((50, 2)) < (0.4, 0.7))
    scores = rng.normal(size=50)
    assert means(rows, scores) == means(rows, np.exp(3 * scores))


def test_without_a_gain_there_is_no_share_of_it(rows_of: Callable[..., OutcomeBatches]) -> None:
    found = means(rows_of([[1, 0], [0, 1]]), np.array([1.0, 2.0]))
    assert found["apgr"] is found["cpt50"] is found["cpt80"] is found["cpt95"] is None
    assert found["aiq"] == pytest.approx((5 * 0.75 + 5 * 1.0) / 10)  # accuracy 1/2, 1, 1/2: the hull stays level at 1


def test_what_costs_nothing_has_no_hull(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of(SCORE, latency=np.full((4, 2), 10.0))
    assert means(rows, ORDER)["aiq"] is None
    assert routing(rows).zero_router() is None


def test_a_share_that_is_never_reached_is_none(rows_of: Callable[..., OutcomeBatches]) -> None:
    """The small budget repairs one question of four, the large one all of them."""
    rows = rows_of([[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    small = means(rows, ORDER, 1)
    assert small["apgr"] == pytest.approx((0.125 + 0.25 * 3) / 4)
    assert small["cpt50"] is small["cpt95"] is None
    assert means(rows, ORDER, [1, 2, 2, 2])["cpt95"] == pytest.approx(0.95)


def test_seeds_are_averaged_and_one_that_never_arrives_speaks_for_all(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of(SCORE)
    both = means(rows, np.stack([ORDER, -ORDER]))
    assert both["apgr"] == pytest.approx((apgr(rows, ORDER) + apgr(rows, -ORDER)) / 2)
    budgets = rows_of([[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    paying = np.array([[1, 1, 1, 1], [2, 2, 2, 2]])
    assert means(budgets, np.stack([ORDER, ORDER]), paying)["cpt50"] is None


def test_intervals_hold_the_mean_and_shrink_with_the_square_root_of_the_questions(
    rows_of: Callable[..., OutcomeBatches],
) -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (400, 6400):
        score = rng.random((n, 2)) < (0.4, 0.8)
        ranking = score[:, 1] - 1.0 * score[:, 0] + rng.normal(size=n)
        metrics = routing(rows_of(score)).metrics(ranking, np.array(1))
        for interval in metrics.values():
            assert interval is not None
            assert interval["low"] <= interval["mean"] <= interval["high"]
        assert metrics["apgr"] is not None
        widths.append(metrics["apgr"]["high"] - metrics["apgr"]["low"])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_the_interval_of_apgr_is_that_of_resampled_questions(rows_of: Callable[..., OutcomeBatches]) -> None:
    """Each resample is written out as a table of its own, question by question."""
    rng = np.random.default_rng(0)
    score = rng.random((60, 2)) < (0.3, 0.9)
    ranking = rng.normal(size=60)
    rows = rows_of(score)
    resamples = Resamples(rows.split.group, 5)
    drawn = Routing(rows, resamples)
    interval = drawn.metrics(ranking, np.array(1))["apgr"]
    assert interval is not None
    redrawn = []
    for counts in resamples.counts.astype(int):
        at = np.repeat(np.arange(60), counts)
        redrawn.append(apgr(rows_of(score[at]), ranking[at] + 0.0))
    low, high = np.percentile(redrawn, [2.5, 97.5])
    assert interval["low"] == pytest.approx(low, abs=1e-6)
    assert interval["high"] == pytest.approx(high, abs=1e-6)


def test_a_curve_of_many_steps_is_joined_into_fewer(
    rows_of: Callable[..., OutcomeBatches], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    score = rng.random((2000, 2)) < (0.4, 0.8)
    rows, ranking = rows_of(score), score[:, 1] - 1.0 * score[:, 0] + rng.normal(size=2000)
    whole = means(rows, ranking)
    monkeypatch.setattr("agents.metrics.routing.STEPS", 50)
    joined = means(rows, ranking)
    for name in CURVE_METRICS:
        assert joined[name] != whole[name]
        assert joined[name] == pytest.approx(whole[name], abs=0.01)


def test_rankings_of_a_wrong_shape_or_without_numbers_are_refused(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of(SCORE)
    with pytest.raises(ValueError, match=r"shape \(seeds, 4\) and no NaN, got \(1, 3\) with 0 NaN; give every row"):
        routing(rows).metrics(np.zeros(3), np.array(1))
    with pytest.raises(ValueError, match=r"got \(1, 4\) with 1 NaN; give every row a number"):
        routing(rows).metrics(np.array([1.0, np.nan, 0.0, 0.0]), np.array(1))


def test_the_zero_router_is_the_line_between_never_and_always(rows_of: Callable[..., OutcomeBatches]) -> None:
    assert routing(rows_of(SCORE)).zero_router() == pytest.approx(0.375)
    assert routing(rows_of([[1, 0], [1, 1]])).zero_router() == pytest.approx(1.0)  # audio only harms: never is the hull
    assert set(CURVE_METRICS) == {"apgr", "cpt50", "cpt80", "cpt95", "aiq"}


def test_a_crossing_is_the_first_one() -> None:
    share = np.array([[0, 0.25, 0.5, 0.75, 1.0]] * 3)
    accuracy = np.array([[0, 0.4, 0.2, 0.6, 0.5]] * 3)
    found = first_crossing(share, accuracy, np.array([0.3, 0.5, 0.7]))
    assert found[0] == pytest.approx(0.25 * 0.75)
    assert found[1] == pytest.approx(0.5 + 0.25 * 0.75)
    assert np.isnan(found[2])


def test_the_hull_leaves_out_what_a_coin_beats_and_what_is_dearer_and_worse() -> None:
    cost, accuracy = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 3.0]), np.array([0.2, 0.3, 0.6, 0.65, 0.5, 0.1])
    x, y = upper_hull(cost, accuracy)
    assert x.tolist() == [1.0, 3.0, 4.0]
    assert y.tolist() == [0.2, 0.6, 0.65]
    assert hull_area(cost, accuracy, 1.0, 5.0) == pytest.approx((2 * 0.4 + 1 * 0.625 + 1 * 0.65) / 4)
    assert hull_area(cost, accuracy, 0.0, 2.0) == pytest.approx((0.2 + 0.3) / 2)


numbers = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30)


@given(numbers)
def test_the_hull_lies_above_all_points_rises_and_bends_down(points: list[tuple[int, int]]) -> None:
    cost, accuracy = np.array(points, dtype=float).T
    x, y = upper_hull(cost, accuracy)
    assert set(zip(x, y, strict=True)) <= set(zip(cost, accuracy, strict=True))
    assert np.all(np.diff(x) > 0)
    assert np.all(np.diff(y) > 0)
    assert np.all(np.diff(np.diff(y) / np.diff(x)) < 0)
    assert np.all(np.interp(cost, x, y) >= accuracy - 1e-9)
    assert y[-1] == accuracy.max()
