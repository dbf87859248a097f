"""Reward and cost against numbers computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.config import OutcomesConfig, RewardConfig
from envs.reward import RewardTerms, cost_matrix, retention_rates
from supervised.errors import ConfigError

SCORE = np.array([[0.0, 1.0], [1.0, 0.5], [0.25, 0.25], [1.0, 0.0]], dtype=np.float32)
LATENCY = np.array([[10, 20], [10, 30], [20, 20], [5, 10]], dtype=np.float32)
RETENTION = np.array([-1, 0, -1, 1], dtype=np.int16)


def test_reward_is_score_minus_latency_minus_irrelevance() -> None:
    # Unit 20 ms, alpha 0.5, gamma 0.1. Row 0: 1 - 0.5 * 10/20 = 0.75. Row 1: 0.5 - 0.5 * 20/20 - 0.1 = -0.1.
    # Row 2: no extra latency, no retention: 0.25. Row 3: 0 - 0.5 * 5/20 - 0.1 = -0.225.
    reward = RewardTerms(SCORE, LATENCY, RETENTION, 20.0, RewardConfig(alpha=0.5, gamma=0.1)).matrix()
    np.testing.assert_allclose(reward, [[0, 0.75], [1, -0.1], [0.25, 0.25], [1, -0.225]], rtol=1e-6)
    assert reward.dtype == np.float32


def test_another_alpha_changes_the_latency_term_only() -> None:
    terms = RewardTerms(SCORE, LATENCY, RETENTION, 20.0, RewardConfig(alpha=0.5, gamma=0.0))
    np.testing.assert_allclose(terms.matrix(0.0), SCORE)
    np.testing.assert_allclose(terms.matrix(1.0)[:, 1], [0.5, -0.5, 0.25, -0.25])


def test_tokens_cost_like_latency_where_the_table_tells_them() -> None:
    # Three actions with 0, 4 and 12 tokens: the mean call has 8, the unit is 32, so USE costs 0.8 * 4/32 = 0.1.
    score, latency, retention = np.zeros((1, 3)), np.zeros((1, 3)), np.array([-1])
    reward = RewardTerms(score, latency, retention, 1.0, RewardConfig(0, 0, token_weight=0.8), (0, 4, 12)).matrix()
    np.testing.assert_allclose(reward, [[0, -0.1, -0.3]], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"token_weight is 0\.8, but the table has no action_tokens"):
        RewardTerms(score, latency, retention, 1.0, RewardConfig(0, 0, token_weight=0.8)).matrix()


def test_the_mean_cost_of_a_set_is_exactly_the_drop_on_it() -> None:
    generator = np.random.default_rng(0)
    score = generator.random((500, 3)).astype(np.float32)
    sets = generator.integers(-1, 2, 500)
    cost = cost_matrix(score, sets, retention_rates(sets, 2))
    assert cost.shape == (500, 2, 3)
    for k in (0, 1):
        for action in (0, 1, 2):
            drop = float((score[sets == k, 0] - score[sets == k, action]).mean())
            assert cost[:, k, action].mean(dtype=np.float64) == pytest.approx(drop, abs=1e-6)


def test_cost_is_computed_by_hand() -> None:
    # Two sets, a row of four each: 1 / P = 4. Row 1 loses 0.5 on set 0, row 3 loses 1 on set 1.
    cost = cost_matrix(SCORE, RETENTION, retention_rates(RETENTION, 2))
    np.testing.assert_array_equal(cost[:, 0, 1], [0, 2, 0, 0])
    np.testing.assert_array_equal(cost[:, 1, 1], [0, 0, 0, 4])
    assert not cost[:, :, 0].any()


def test_a_set_without_rows_in_the_split_costs_nothing() -> None:
    rates = retention_rates(np.array([0, -1]), 3)
    np.testing.assert_array_equal(rates, [0.5, 0, 0])
    assert np.isfinite(cost_matrix(SCORE[:2], np.array([0, -1]), rates)).all()
    assert cost_matrix(SCORE, np.full(4, -1), np.zeros(0)).shape == (4, 0, 2)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_weights_below_zero_or_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"reward\.alpha must be a finite number >= 0, got .*; use e\.g\. 0\.1"):
        RewardConfig(alpha=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"outcomes\.batch_size must be at least 1, got 0"),
        ({"latency_repeats": 2}, r"outcomes\.latency_repeats must be at least 3"),
        ({"cost_mode": "both"}, r"outcomes\.cost_mode must be one of cascade, router, got 'both'; use cascade"),
        ({"feature_dtype": "int8"}, r"outcomes\.feature_dtype must be one of float16, float32"),
    ],
)
def test_a_wrong_build_configuration_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OutcomesConfig(**options)
