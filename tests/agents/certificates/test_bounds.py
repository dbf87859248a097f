"""Exact binomial and betting bounds against tables, scipy's own interval, and simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from agents.certificates.bounds import (
    betting_bound,
    betting_p_value,
    binomial_p_value,
    clean_drops_needed,
    drops_needed,
    questions_needed,
    upper_bound,
)

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("limit", "n", "most"),
    [
        (0.003, 1000, 0),
        (0.003, 5000, 8),
        (0.003, 10_000, 20),
        (0.003, 214_354, 601),
        (0.005, 2000, 4),
        (0.01, 50_000, 463),
    ],
)
def test_as_many_harms_are_allowed_as_the_published_table_says(limit: float, n: int, most: int) -> None:
    """The limits of the exact test at 95 %, computed independently."""
    p = binomial_p_value(np.array([most, most + 1]), n, limit)
    assert p[0] <= 0.05 < p[1]


@pytest.mark.parametrize(("limit", "delta", "n"), [(0.001, 0.05, 2995), (0.003, 0.05, 998), (0.003, 0.01, 1533)])
def test_zero_harm_needs_as_many_questions_as_one_computes_by_hand(limit: float, delta: float, n: int) -> None:
    assert questions_needed(0.0, limit, delta) == n
    assert (1 - limit) ** n <= delta < (1 - limit) ** (n - 1)


@given(counts, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_upper_bound_is_that_of_clopper_and_pearson(kn: tuple[int, int], delta: float) -> None:
    k, n = kn
    expected = binomtest(k, n, alternative="less").proportion_ci(1 - delta, "exact").high
    assert upper_bound(k, n, delta) == pytest.approx(expected, abs=1e-9)


@given(counts, st.floats(0.001, 0.5))
def test_a_limit_is_certified_exactly_when_the_bound_is_below_it(kn: tuple[int, int], limit: float) -> None:
    k, n = kn
    bound = upper_bound(k, n, 0.05)
    if abs(bound - limit) > 1e-9:
        assert bool(binomial_p_value(k, n, limit) <= 0.05) == (bound < limit)


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0.001, 0.9))
def test_more_events_or_fewer_questions_never_help(k: int, extra: int, limit: float) -> None:
    n = k + extra
    p = float(binomial_p_value(k, n, limit))
    assert binomial_p_value(k + 1, n + 1, limit) >= p - 1e-12
    assert binomial_p_value(k, n + 1, limit) <= p + 1e-12
    assert upper_bound(k + 1, n, 0.05) >= upper_bound(k, n, 0.05) >= upper_bound(k, n + 1, 0.05)


def test_rates_cannot_exceed_one_and_nothing_is_known_without_questions() -> None:
    assert binomial_p_value(np.array([3, 5]), 5, 1.0).tolist() == [0.0, 0.0]
    assert binomial_p_value(0, 0, 0.5) == 1.0
    assert upper_bound(0, 0, 0.05) == upper_bound(7, 7, 0.05) == 1.0


@given(st.floats(0.0, 0.0095), st.sampled_from([0.01, 0.05]))
def test_the_number_needed_certifies_the_rate_it_was_asked_for(rate: float, delta: float) -> None:
    n = questions_needed(rate, 0.01, delta)
    assert n is not None
    assert binomial_p_value(int(np.ceil(rate * n - 1e-9)), n, 0.01) <= delta
    assert n >= (questions_needed(0.0, 0.01, delta) or 0)


def test_no_number_certifies_a_rate_at_the_limit_or_a_limit_of_zero() -> None:
    assert questions_needed(0.01, 0.01, 0.05) is None
    assert questions_needed(0.0, 0.0, 0.05) is None
    assert questions_needed(0.0, 1e-300, 0.05) is None
    assert questions_needed(0.0, 1e-9, 1e-300) == pytest.approx(300 * np.log(10) / 1e-9, rel=1e-3)
    assert questions_needed(0.01 - 1e-9, 0.01, 0.05) is None  # it would take more than 10^14


def test_the_wealth_of_a_bettor_computed_by_hand() -> None:
    """Two questions, limit 0.2: the means are 0.5 and 0.6 after the map to [0, 1]; the bets stay below 0.75 / 0.4."""
    first = min(np.sqrt(2 * np.log(20) / (2 * 0.25)), 0.75 / 0.4)
    wealth = 1 - first * (0.5 - 0.6)  # of a loss of 0
    running = (0.5 + 0.5) / 2
    variance = (0.25 + (0.5 - running) ** 2) / 2
    second = min(np.sqrt(2 * np.log(20) / (2 * variance)), 0.75 / 0.4)
    assert betting_p_value(np.array([0.0, -1.0]), 0.2, 0.05) == pytest.approx(1 / (wealth * (1 + second * 0.6)))
    assert betting_p_value(np.array([0.0, 1.0]), 0.2, 0.05) == pytest.approx(1 / wealth)  # the most wealth there was
    assert betting_p_value(np.array([1.0, 1.0]), 0.2, 0.05) == 1.0


def test_small_bets_follow_the_variance_seen_before_the_question() -> None:
    """Where the cap does not bind, a bet is sqrt(2 log(1 / delta) / (n variance)), the variance being the past's."""
    losses = np.array([1.0, -1.0] * 500)
    scaled, seen = (1 + losses) / 2, np.arange(2, 1002)
    running = (0.5 + np.cumsum(scaled)) / seen
    variance = (0.25 + np.cumsum((scaled - running) ** 2)) / seen
    past = np.append(0.25, variance[:-1])
    bets = np.sqrt(2 * np.log(20) / (1000 * past))
    assert bets.max() < 0.75 / 0.45
    wealth = np.cumprod(1 - bets * (scaled - 0.55)).max()
    assert betting_p_value(losses, 0.1, 0.05) == pytest.approx(1 / wealth)


@given(st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.0, 0.0, 0.3, 1.0]), min_size=1, max_size=200))
def test_a_wider_limit_is_never_harder_to_certify_by_betting(losses: list[float]) -> None:
    p = [float(betting_p_value(np.array(losses), limit, 0.05)) for limit in (0.0, 0.003, 0.05, 0.5, 1.0)]
    assert all(before >= after - 1e-12 for before, after in pairwise(p))
    assert p[-1] == 0.0


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 0.3, 1.0]), min_size=1, max_size=300))
def test_the_betting_bound_is_where_the_p_value_crosses_delta(losses: list[float]) -> None:
    values = np.array(losses)
    bound = betting_bound(values, 0.05)
    assert bound >= values.mean() - 1e-6
    assert betting_p_value(values, bound, 0.05) <= 0.05
    if -1 + 3e-6 < bound:
        assert betting_p_value(values, bound - 2e-6, 0.05) > 0.05


def test_nothing_is_certified_by_betting_on_no_questions() -> None:
    assert betting_p_value(np.zeros((3, 0)), 0.1, 0.05).tolist() == [1.0, 1.0, 1.0]
    assert drops_needed(np.zeros(0), 0.1, 0.05) is None


def test_the_number_of_questions_without_a_drop_certifies_the_limit() -> None:
    n = clean_drops_needed(0.003, 0.05)
    assert n is not None
    assert 998 <= n <= 1500  # betting costs some more than the exact test's 998
    assert betting_p_value(np.zeros(n), 0.003, 0.05) <= 0.05 < betting_p_value(np.zeros(n - 1), 0.003, 0.05)
    assert drops_needed(np.array([1.0, 0.0]), 0.3, 0.05) is None
    assert clean_drops_needed(1e-7, 0.05) is drops_needed(np.zeros(1), 1e-7, 0.05) is None


@pytest.mark.parametrize("change", [0.002, 0.01, 0.03])
def test_as_many_questions_as_are_said_to_be_needed_certify_about_half_of_the_time(change: float) -> None:
    """As many losses as gains, so that the true drop is 0; the limit is one point."""
    seen = np.array([1.0, -1.0] + [0.0] * (round(2 / change) - 2))
    n = drops_needed(seen, 0.01, 0.05)
    assert n is not None
    losses = np.random.default_rng(0).choice([1.0, -1.0, 0.0], (300, n), p=[change / 2, change / 2, 1 - change])
    assert 0.3 < (betting_p_value(losses, 0.01, 0.05) <= 0.05).mean() < 0.9


@pytest.mark.parametrize("values", [(-1.0, 0.0, 1.0), (0.0, 1.0), (-0.3, 0.1)])
def test_a_true_hypothesis_is_rejected_by_betting_with_probability_delta_at_most(values: tuple[float, ...]) -> None:
    """Losses whose mean is the limit exactly; naive means below it are seen in about half of the draws."""
    rng = np.random.default_rng(0)
    chance = {3: [0.02, 0.96, 0.02], 2: [0.95, 0.05]}[len(values)]
    losses = rng.choice(values, size=(2000, 400), p=chance)
    limit = float(np.dot(values, chance))
    rejected = int((betting_p_value(losses, limit, 0.05) <= 0.05).sum())
    assert rejected <= binom.ppf(0.999, 2000, 0.05)
    assert (losses.mean(axis=1) < limit).sum() > binom.ppf(0.999, 2000, 0.05)
