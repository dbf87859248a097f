from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from agents.dual import solve_multipliers

GAIN = np.array([4.0, 3.0, 2.0, 1.0], dtype=np.float32)
REWARD = np.stack([np.zeros(4), GAIN], axis=1).astype(np.float32)
"""Four items; taking one earns its gain."""
COST = np.broadcast_to(np.array([0.0, 1.0], dtype=np.float32), (4, 1, 2))
"""And costs 1."""


@pytest.mark.parametrize(
    ("limit", "price"),
    [
        (1.0, 0.0),  # all four fit
        (0.75, 1.0),  # the last item must not be worth its price
        (0.5, 2.0),
        (0.6, 2.0),  # no third item fits
        (0.25, 3.0),
        (0.0, 4.0),
    ],
)
def test_the_price_of_a_knapsack_is_the_gain_of_the_first_item_left_out(limit: float, price: float) -> None:
    assert solve_multipliers(REWARD, COST, np.array([limit]), 20.0) == pytest.approx([price], abs=1e-3)


def test_a_limit_that_no_price_reaches_gets_the_largest() -> None:
    assert solve_multipliers(REWARD, COST + 1, np.array([0.5]), 7.0).tolist() == [7.0]
    assert solve_multipliers(REWARD, COST, np.array([0.0]), 3.5).tolist() == [3.5]


def test_with_a_maximum_of_zero_there_is_no_price() -> None:
    assert solve_multipliers(REWARD, COST, np.array([0.0]), 0.0).tolist() == [0.0]


def test_the_margin_keeps_standard_errors_free() -> None:
    # Two of four: 0.5 + sqrt(0.5 * 0.5 / 4) = 0.75. One of four: 0.25 + sqrt(0.25 * 0.75 / 4) = 0.4665.
    assert solve_multipliers(REWARD, COST, np.array([0.75]), 20.0, margin=1.0) == pytest.approx([2.0], abs=1e-3)
    assert solve_multipliers(REWARD, COST, np.array([0.74]), 20.0, margin=1.0) == pytest.approx([3.0], abs=1e-3)
    assert solve_multipliers(REWARD, COST, np.array([0.4666]), 20.0, margin=1.0) == pytest.approx([3.0], abs=1e-3)
    assert solve_multipliers(REWARD, COST, np.array([0.4664]), 20.0, margin=1.0) == pytest.approx([4.0], abs=1e-3)


def test_decisions_follow_the_predicted_cost_and_the_limit_holds_for_the_paid_one() -> None:
    paid = 2 * COST  # half a limit of 0.5 is left: one item
    assert solve_multipliers(REWARD, COST, np.array([0.5]), 20.0, paid) == pytest.approx([3.0], abs=1e-3)
    predicted = COST * np.array([1.0, 1.0, 4.0, 1.0])[:, None, None]  # the third item goes first, at a price of 0.5
    assert solve_multipliers(REWARD, predicted, np.array([0.75]), 20.0, COST) == pytest.approx([0.5], abs=1e-3)


def test_a_constraint_that_does_not_bind_has_no_price_beside_one_that_does() -> None:
    cost = np.concatenate([COST, COST], axis=1)
    assert solve_multipliers(REWARD, cost, np.array([0.5, 0.9]), 20.0) == pytest.approx([2.0, 0.0], abs=1e-3)
    assert solve_multipliers(REWARD, cost, np.array([1.0, 0.25]), 20.0) == pytest.approx([0.0, 3.0], abs=1e-3)


def test_without_constraints_there_is_nothing_to_price() -> None:
    assert solve_multipliers(REWARD, np.zeros((4, 0, 2), np.float32), np.zeros(0), 20.0).shape == (0,)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    actions=st.integers(2, 4),
    tightness=st.tuples(st.floats(0.2, 1.2), st.floats(0.2, 1.2)),
)
def test_the_prices_of_two_constraints_are_those_of_the_linear_program(
    seed: int, actions: int, tightness: tuple[float, float]
) -> None:
    rng, n = np.random.default_rng(seed), 400
    reward = rng.normal(size=(n, actions)).astype(np.float32)
    cost = rng.random((n, 2, actions)).astype(np.float32)
    reward[:, 0], cost[:, :, 0] = 0.0, 0.0
    free = np.take_along_axis(cost, reward.argmax(axis=1)[:, None, None], axis=2)[:, :, 0].mean(axis=0)  # [K]
    limits = free * np.array(tightness)
    program = linprog(
        -reward.ravel() / n,
        A_ub=cost.transpose(1, 0, 2).reshape(2, -1) / n,
        b_ub=limits,
        A_eq=np.kron(np.eye(n), np.ones(actions)),
        b_eq=np.ones(n),
        method="highs",
    )
    assert program.fun is not None
    multipliers = solve_multipliers(reward, cost, limits, 20.0)
    dual = (reward - np.einsum("nka,k->na", cost, multipliers)).max(axis=1).mean() + multipliers @ limits
    # Near its minimum the dual is flat, so its value is compared, not where it is reached.
    assert -program.fun - 1e-4 <= dual <= -program.fun + 5e-3
