from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.config import LagrangianConfig
from agents.multiplier import LagrangeMultiplier


def test_multiplier_matches_three_steps_computed_by_hand() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.25, lr=0.5))
    # 0 + 0.5 * 0.5 = 0.25;  0.25 + 0.5 * 0 = 0.25;  0.25 - 0.5 * 0.25 = 0.125
    assert [multiplier.update([cost])[0] for cost in (0.75, 0.25, 0.0)] == [0.25, 0.25, 0.125]


def test_every_constraint_has_its_own_limit_and_multiplier() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=(0.5, 1.0), lr=1.0, initial=1.0), 2)
    # 1 + (1.0 - 0.5) = 1.5;  1 + (0.5 - 1.0) = 0.5
    assert multiplier.update([1.0, 0.5]).tolist() == [1.5, 0.5]
    assert multiplier.excess.tolist() == [0.5, -0.5]


def test_one_number_is_the_limit_of_all_constraints() -> None:
    assert LagrangeMultiplier(LagrangianConfig(limit=0.25), 3).limit.tolist() == [0.25] * 3


def test_the_step_is_in_proportion_to_the_violation() -> None:
    steps = [LagrangeMultiplier(LagrangianConfig(limit=0.0, lr=1.0)).update([cost])[0] for cost in (0.125, 0.25)]
    assert steps == [0.125, 0.25]


def test_after_a_long_violation_the_multiplier_comes_down_at_once() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.5, lr=1.0, maximum=2.0))
    for _ in range(100):
        multiplier.update([1.5])
    assert multiplier.value[0] == 2.0
    assert multiplier.saturated[0]
    assert multiplier.update([0.0])[0] == 1.5
    assert not multiplier.saturated[0]


def test_a_constraint_that_is_switched_off_is_not_infeasible() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.5, maximum=0.0))
    assert multiplier.update([1.5]).tolist() == [0.0]
    assert multiplier.excess.tolist() == [1.0]
    assert not multiplier.saturated[0]


def test_pi_adds_the_present_excess() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.25, lr=0.5, update="pi", proportional=2.0))
    # Integral 0.5 * 0.5 = 0.25, answer 0.5 * 2 * 0.5 = 0.5; then no excess: the integral alone.
    assert [multiplier.update([cost])[0] for cost in (0.75, 0.25)] == [0.75, 0.25]


def test_pid_adds_the_rise_of_the_cost_and_nothing_for_a_fall() -> None:
    config = LagrangianConfig(limit=0.5, lr=1.0, update="pid", proportional=1.0, derivative=2.0)
    multiplier = LagrangeMultiplier(config)
    # 0.5 + 0.5 + 0 (nothing to compare with);  (0.5 + 0.75) + 0.75 + 2 * 0.25 = 2.5;  1.25 + 0 + 0 = 1.25
    assert [multiplier.update([cost])[0] for cost in (1.0, 1.25, 0.5)] == [1.0, 2.5, 1.25]


def test_proportional_and_derivative_read_the_average_and_the_integral_the_measurement() -> None:
    config = LagrangianConfig(limit=0.0, lr=1.0, update="pid", smoothing=0.5)
    multiplier = LagrangeMultiplier(config)
    # Averages 1 and 1.5. 1 + 1 + 0 = 2;  (1 + 2) + 1.5 + 0.5 = 5
    assert [multiplier.update([cost])[0] for cost in (1.0, 2.0)] == [2.0, 5.0]


def test_a_limit_that_moves_is_not_taken_for_a_cost_that_rises() -> None:
    config = LagrangianConfig(limit=1.0, lr=1.0, update="pid", proportional=0.0, derivative=100.0)
    multiplier = LagrangeMultiplier(config)
    multiplier.update([1.0])
    multiplier.set_limits(0.5)
    assert multiplier.update([1.0])[0] == 0.5  # the integral alone


def test_pi_does_not_wind_up_at_its_maximum() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.5, lr=1.0, update="pi", maximum=2.0))
    for _ in range(100):
        assert multiplier.update([1.5])[0] == 2.0  # integral 1, answer 1: at the maximum, so the integral stops there
    assert multiplier.saturated[0]
    assert multiplier.integral[0] == 1.0
    assert multiplier.update([0.5])[0] == 1.0


def test_pi_does_not_forget_its_price_while_it_stands_at_zero() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.5, lr=1.0, update="pi", initial=0.25))
    for _ in range(100):
        assert multiplier.update([0.0])[0] == 0.0  # answer -0.5: the integral 0.25 cannot lift it
    assert multiplier.update([0.5])[0] == 0.25


@pytest.mark.parametrize("update", ["sgd", "pi", "pid"])
@given(costs=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), smoothing=st.floats(0, 0.99))
def test_the_multiplier_never_leaves_its_bounds(update: Any, costs: list[float], smoothing: float) -> None:
    config = LagrangianConfig(limit=0.1, lr=7.0, maximum=3.0, update=update, derivative=5.0, smoothing=smoothing)
    multiplier = LagrangeMultiplier(config)
    for cost in costs:
        assert 0.0 <= multiplier.update([cost])[0] <= 3.0
        assert 0.0 <= multiplier.integral[0] <= 3.0


@given(costs=st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_without_gains_pi_and_pid_are_dual_ascent(costs: list[float]) -> None:
    values = []
    for update in ("sgd", "pi", "pid"):
        config = LagrangianConfig(limit=1.0, lr=0.3, update=update, proportional=0, derivative=0)
        multiplier = LagrangeMultiplier(config)
        values.append([multiplier.update([cost])[0] for cost in costs])
    assert values[0] == values[1] == values[2]


def test_a_measurement_on_hold_is_history_but_no_step() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.0, lr=1.0, update="pid", proportional=0.0))
    multiplier.observe([1.0])
    assert multiplier.value[0] == 0.0
    assert multiplier.update([1.5])[0] == 2.0  # integral 1.5, rise 0.5


@pytest.mark.parametrize("update", ["sgd", "pi", "pid"])
def test_the_state_survives_json_exactly(update: Any) -> None:
    config = LagrangianConfig(limit=0.1, lr=1 / 3, update=update, smoothing=0.3)
    multiplier, fresh = LagrangeMultiplier(config), LagrangeMultiplier(config)
    fresh.load_state_dict(json.loads(json.dumps(multiplier.state_dict())))
    assert np.isnan(fresh.cost[0])
    multiplier.update([0.7])
    multiplier.set_limits(0.05)
    fresh.load_state_dict(json.loads(json.dumps(multiplier.state_dict())))
    assert fresh.limit[0] == 0.05
    assert [fresh.update([cost])[0] for cost in (0.9, 0.3)] == [multiplier.update([cost])[0] for cost in (0.9, 0.3)]


def test_limits_move_one_for_all_or_one_each() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.5), 2)
    multiplier.set_limits(0.25)
    assert multiplier.limit.tolist() == [0.25, 0.25]
    multiplier.set_limits([0.1, 0.2])
    assert multiplier.limit.tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([0.1], r"one number or 2 \(one per constraint\), got 1: \[0\.1\]"),
        ([0.1, -1.0], r"a number >= 0, or a list of them, got -1\.0"),
        (float("nan"), r"a number >= 0, or a list of them, got nan"),
        ("loose", r"a number >= 0, or a list of them, got 'loose'"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LagrangeMultiplier(LagrangianConfig(), 2).set_limits(limits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"update": "adam"}, r"lagrangian\.update must be sgd, pi or pid, got 'adam'; use e\.g\. sgd"),
        ({"proportional": -1.0}, r"lagrangian\.proportional must be >= 0, got -1\.0"),
        ({"derivative": float("inf")}, r"lagrangian\.derivative must be >= 0, got inf"),
        ({"smoothing": 1.0}, r"lagrangian\.smoothing must be at least 0 and below 1, got 1\.0"),
    ],
)
def test_gains_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LagrangianConfig(**values)


def test_a_state_with_other_constraints_is_refused() -> None:
    state = LagrangeMultiplier(LagrangianConfig(), 2).state_dict()
    with pytest.raises(ValueError, match=r"has 2 constraints, this run has 1; resume with"):
        LagrangeMultiplier(LagrangianConfig()).load_state_dict(state)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ([0.1, 0.2], r"There are 1 constraints, but costs of shape \(2,\)"),
        ([float("nan")], r"finite number, got \[nan\]"),
    ],
)
def test_a_measurement_that_makes_no_sense_is_refused(cost: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LagrangeMultiplier(LagrangianConfig()).update(cost)
