from __future__ import annotations

import json

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


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_multiplier_never_leaves_its_bounds(costs: list[float]) -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.1, lr=7.0, maximum=3.0))
    assert all(0.0 <= multiplier.update([cost])[0] <= 3.0 for cost in costs)


def test_the_state_survives_json_exactly() -> None:
    multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.1, lr=1 / 3))
    fresh = LagrangeMultiplier(LagrangianConfig(limit=0.1, lr=1 / 3))
    fresh.load_state_dict(json.loads(json.dumps(multiplier.state_dict())))
    assert np.isnan(fresh.cost[0])
    multiplier.update([0.7])
    fresh.load_state_dict(json.loads(json.dumps(multiplier.state_dict())))
    assert fresh.update([0.3])[0] == multiplier.update([0.3])[0]


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
