from __future__ import annotations

import json
from typing import Literal

import pytest

from supervised.stage_a.config import GuardConfig
from supervised.stage_a.guard import Guard


def judge(guard: Guard, accuracy: float, drop: float, step: int = 100, warming: bool = False) -> str:
    return guard.judge({"audio_accuracy": accuracy, "drop": drop}, step, warming)


def test_within_the_drop_the_better_hearing_is_best() -> None:
    guard = Guard(GuardConfig(max_drop=0.02))
    assert judge(guard, 0.5, 0.019) == "best"
    assert judge(guard, 0.6, 0.02, step=200) == "best"
    assert judge(guard, 0.9, 0.021) == "worse"  # hears best, but drops too much
    assert guard.best == {"audio_accuracy": 0.6, "drop": 0.02, "step": 200}


def test_with_none_within_the_drop_the_smallest_drop_is_best() -> None:
    guard = Guard(GuardConfig(max_drop=0.0))
    assert judge(guard, 0.9, 0.05) == "best"
    assert judge(guard, 0.5, 0.04) == "best"
    assert judge(guard, 0.9, 0.045) == "worse"


def test_patience_counts_evaluations_in_vain_after_the_warm_up() -> None:
    guard = Guard(GuardConfig(patience=2))
    assert judge(guard, 0.5, 0.0) == "best"
    assert judge(guard, 0.4, 0.0, warming=True) == "worse"
    assert judge(guard, 0.4, 0.0) == "worse"
    assert guard.impatience == ""
    assert judge(guard, 0.4, 0.0) == "worse"
    assert guard.impatience == "2 evaluations without a better one"


def test_a_better_evaluation_begins_the_count_anew() -> None:
    guard = Guard(GuardConfig(patience=2))
    assert [judge(guard, value, 0.0) for value in (0.5, 0.4, 0.6, 0.5)] == ["best", "worse", "best", "worse"]
    assert not guard.impatience


def test_a_stage_begins_the_count_anew_and_keeps_the_best_step() -> None:
    guard = Guard(GuardConfig(patience=2))
    assert [judge(guard, value, 0.0) for value in (0.5, 0.4)] == ["best", "worse"]
    guard.begin_stage()
    assert judge(guard, 0.4, 0.0) == "worse"
    assert guard.impatience == ""
    assert judge(guard, 0.5, 0.0) == "worse"  # as good as the best one is not better
    assert guard.impatience
    assert guard.best["audio_accuracy"] == 0.5


def test_a_breach_rolls_back_so_often_and_then_ends_the_run() -> None:
    guard = Guard(GuardConfig(breach=0.1, roll_backs=2, patience=9))
    assert judge(guard, 0.5, 0.0) == "best"
    assert judge(guard, 0.9, 0.1) == "worse"  # the limit itself is no breach
    assert [judge(guard, 0.9, 0.11) for _ in range(3)] == ["roll_back", "roll_back", "stop"]
    assert guard.reason == "retention fell by 11.0 points, above stage_a.guard.breach"


def test_a_breach_with_nothing_to_roll_back_to_goes_on() -> None:
    guard = Guard(GuardConfig(breach=0.1))
    assert judge(guard, 0.5, 0.3) == "best"
    assert judge(guard, 0.5, 0.2) == "best"
    assert judge(guard, 0.5, 0.25) == "roll_back"


@pytest.mark.parametrize(("on_breach", "verdict"), [("stop", "stop"), ("go_on", "best")])
def test_a_breach_may_end_the_run_at_once_or_be_noted_only(on_breach: Literal["stop", "go_on"], verdict: str) -> None:
    guard = Guard(GuardConfig(breach=0.1, on_breach=on_breach))
    assert judge(guard, 0.5, 0.2) == verdict


def test_no_breach_counts_while_the_gate_warms_up() -> None:
    guard = Guard(GuardConfig(breach=0.1, on_breach="stop"))
    assert judge(guard, 0.5, 0.2, warming=True) == "best"


def test_a_guard_goes_on_where_another_stood() -> None:
    guard, other = (Guard(GuardConfig(breach=0.1, roll_backs=1, patience=3)) for _ in range(2))
    for accuracy, drop in ((0.5, 0.0), (0.4, 0.2), (0.4, 0.0)):
        judge(guard, accuracy, drop)
    other.set_state(json.loads(json.dumps(guard.get_state())))
    assert other.get_state() == guard.get_state()
    rest = [(0.3, 0.0), (0.2, 0.2)]
    assert [judge(guard, *each) for each in rest] == [judge(other, *each) for each in rest] == ["worse", "stop"]
