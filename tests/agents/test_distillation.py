"""A student decides and sounds like its teacher; equal seeds give equal students."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from agents.config import DistillConfig
from agents.distillation import Student, calibration_error, distil, fit_temperature
from agents.divergence import Diverged
from agents.gate_policy import GatePolicy
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable
from supervised.errors import ConfigError

QUICK = DistillConfig(hidden=48, steps=500, batch_size=200, learning_rate=1e-2)
Rows = dict[str, OutcomeBatches]


@pytest.fixture(scope="module")
def rows(table: OutcomeTable) -> Rows:
    return {name: OutcomeBatches(table.split(name), RewardConfig()) for name in ("train", "validation", "test")}


def teacher(
    train: OutcomeBatches, hidden: tuple[int, ...], actions: int = 2, activation: str = "tanh", scale: float = 1.3
) -> GatePolicy:
    """A policy of random weights to which all actions are equally good on average."""
    rng = np.random.default_rng(1)
    sizes = [sum(train.normaliser.widths.values()), *hidden, actions]
    layers = [(scale * rng.normal(size=(out, into)) / np.sqrt(into), np.zeros(out)) for into, out in pairwise(sizes)]
    names = tuple(f"action-{i}" for i in range(actions))
    policy = GatePolicy(train.normaliser, layers, names, activation)
    layers[-1] = (layers[-1][0], -policy.logits(train.split.observation(slice(None))).mean(axis=0))
    return GatePolicy(train.normaliser, layers, names, activation)


def agreement(student: Student, policy: GatePolicy, rows: OutcomeBatches) -> float:
    features = rows.split.observation(slice(None))
    return float((student.policy.decide(features) == policy.decide(features)).mean())


@pytest.mark.parametrize(
    ("hidden", "activation", "at_least"),
    [
        ((), "tanh", 0.95),
        ((12,), "tanh", 0.98),
        ((12, 8), "tanh", 0.95),
        ((12, 8, 8), "tanh", 0.95),
        ((12,), "relu", 0.98),
        ((12, 8), "relu", 0.87),
    ],
)
def test_a_student_of_one_hidden_layer_decides_like_its_teacher(
    rows: Rows, hidden: tuple[int, ...], activation: str, at_least: float
) -> None:
    policy = teacher(rows["train"], hidden, activation=activation)
    student = distil(policy, rows["train"], rows["validation"], QUICK, seed=0)
    shares = np.bincount(policy.decide(rows["test"].split.observation(slice(None)))) / len(rows["test"])
    assert shares.max() < 0.9  # a constant would not do
    assert agreement(student, policy, rows["test"]) >= at_least
    assert [weight.shape for weight, _ in student.policy.layers] == [(48, policy.width), (2, 48)]
    assert student.policy.actions == policy.actions
    assert student.policy.activation == activation
    assert student.policy.normaliser is policy.normaliser


def test_a_teacher_of_one_hidden_layer_that_is_no_wider_is_copied_before_anything_is_learned(rows: Rows) -> None:
    policy = teacher(rows["train"], (12,), activation="relu")
    config = DistillConfig(hidden=12, steps=1, learning_rate=1e-9)
    student = distil(policy, rows["train"], rows["validation"], config, seed=0)
    assert student.agreement == 1.0
    assert student.temperature == pytest.approx(1.0, abs=1e-3)
    features = rows["test"].split.observation(slice(None))
    np.testing.assert_allclose(student.policy.probabilities(features), policy.probabilities(features), atol=1e-3)


def test_a_student_of_several_budgets_decides_like_its_teacher(rows: Rows) -> None:
    policy = teacher(rows["train"], (12, 8), actions=4)
    student = distil(policy, rows["train"], rows["validation"], QUICK, seed=0)
    assert agreement(student, policy, rows["test"]) >= 0.93


def test_a_narrow_student_of_a_wide_teacher_is_possible(rows: Rows) -> None:
    policy = teacher(rows["train"], (12, 8))
    student = distil(policy, rows["train"], rows["validation"], DistillConfig(hidden=3, steps=200), seed=0)
    assert student.policy.layers[0][0].shape[0] == 3
    assert agreement(student, policy, rows["test"]) >= 0.85


def test_agreement_and_calibration_are_those_of_the_policy_that_is_returned(rows: Rows) -> None:
    policy = teacher(rows["train"], (12, 8), scale=3.0)
    student = distil(policy, rows["train"], rows["validation"], QUICK, seed=0)
    assert student.agreement == pytest.approx(agreement(student, policy, rows["validation"]), abs=1e-9)
    features = rows["validation"].split.observation(slice(None))
    error = calibration_error(student.policy.use_probability(features), policy.use_probability(features))
    assert error == pytest.approx(student.calibration_error, abs=1e-3)
    assert 0 < student.step <= QUICK.steps


def test_the_temperature_changes_no_decision_and_brings_the_probabilities_closer(rows: Rows) -> None:
    policy = teacher(rows["train"], (12, 8))
    # A teacher that is sure: after ten steps the student is not, and the temperature has something to mend.
    sure = GatePolicy(policy.normaliser, [*policy.layers[:-1], (5 * policy.layers[-1][0], np.zeros(2))], policy.actions)
    student = distil(sure, rows["train"], rows["validation"], DistillConfig(hidden=4, steps=10), seed=0)
    weight, bias = student.policy.layers[-1]
    raw = [student.policy.layers[0], (weight * student.temperature, bias * student.temperature)]
    untempered = GatePolicy(policy.normaliser, raw, policy.actions)
    features = rows["validation"].split.observation(slice(None))
    assert np.array_equal(untempered.decide(features), student.policy.decide(features))
    before, after = (
        calibration_error(gate.use_probability(features), sure.use_probability(features))
        for gate in (untempered, student.policy)
    )
    assert abs(np.log(student.temperature)) > 0.05
    assert before == pytest.approx(student.calibration_error_before, abs=1e-3)
    assert after < before


def test_equal_seeds_give_equal_students_and_others_do_not(rows: Rows) -> None:
    policy = teacher(rows["train"], (12, 8))
    config = DistillConfig(hidden=24, steps=30)
    one, other, different = (
        distil(policy, rows["train"], rows["validation"], config, seed).policy.layers for seed in (0, 0, 1)
    )
    for (weight, bias), (other_weight, other_bias) in zip(one, other, strict=True):
        assert np.array_equal(weight, other_weight)
        assert np.array_equal(bias, other_bias)
    assert not np.array_equal(one[0][0], different[0][0])


def test_outcomes_are_not_looked_at(rows: Rows) -> None:
    policy = teacher(rows["train"], (12, 8))
    config = DistillConfig(hidden=8, steps=20)
    blind = {name: OutcomeBatches(rows[name].split, RewardConfig(alpha=9.0, gamma=5.0)) for name in rows}
    for name in ("train", "validation"):
        blind[name].reward[:] = np.nan
        blind[name].cost[:] = np.nan
    one, other = (distil(policy, given["train"], given["validation"], config, 0) for given in (rows, blind))
    assert np.array_equal(one.policy.layers[0][0], other.policy.layers[0][0])


def test_progress_is_told_after_every_step(rows: Rows) -> None:
    told: list[int] = []
    policy = teacher(rows["train"], (12,))
    distil(policy, rows["train"], rows["validation"], DistillConfig(hidden=4, steps=5), 0, told.append)
    assert told == [1, 2, 3, 4, 5]


def test_the_temperature_of_scaled_logits_is_the_scale() -> None:
    logits = np.random.default_rng(0).normal(size=(500, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert fit_temperature(2.5 * logits, chances) == pytest.approx(2.5, rel=1e-4)
    assert fit_temperature(0.4 * logits, chances) == pytest.approx(0.4, rel=1e-4)


def test_calibration_error_matches_bins_added_up_by_hand() -> None:
    # Two bins: |(0.1 - 0) + (0.3 - 0.2)| = 0.2 and |(0.9 - 1) + (1.0 - 0.4)| = 0.5 over 4 rows.
    error = calibration_error(np.array([0.1, 0.3, 0.9, 1.0]), np.array([0.0, 0.2, 1.0, 0.4]), bins=2)
    assert error == pytest.approx(0.7 / 4)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hidden": 0}, r"distill\.hidden must be a whole number of at least 1, got 0; use e\.g\. 32"),
        ({"steps": 0}, r"distill\.steps must be .* got 0; use e\.g\. 3000"),
        ({"learning_rate": 0.0}, r"distill\.learning_rate must be > 0, got 0\.0; use e\.g\. 0\.003"),
        ({"mix": 1.5}, r"distill\.mix must be between 0 and 1, got 1\.5; use e\.g\. 1"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_a_remedy(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        DistillConfig(**values)


def test_a_student_that_leaves_the_finite_numbers_does_not_ship(rows: Rows) -> None:
    """Of a teacher that never uses audio it looks like a perfect one: the largest of numbers that are none is skip."""
    never = teacher(rows["train"], (12,))
    never.layers[-1] = np.zeros((2, 12), np.float32), np.array([20.0, 0.0], np.float32)
    never = GatePolicy(never.normaliser, never.layers, never.actions)
    with pytest.raises(Diverged, match=r"seed 2: the policy is no .* after 40 steps; lower distill\.learning_rate"):
        distil(never, rows["train"], rows["validation"], replace(QUICK, steps=40, learning_rate=1e30), 2)
