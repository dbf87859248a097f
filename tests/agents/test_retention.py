from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agents import retention
from agents.config import LagrangianConfig
from agents.cost_policy import CostActorCriticPolicy
from agents.multiplier import LagrangeMultiplier
from agents.retention import RetentionBuffer
from envs.reward import cost_matrix, retention_rates


class _First:
    """Takes action 1 with the probability that the first column of the observation gives."""

    def probabilities(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        part = observations["a"] if isinstance(observations, dict) else observations
        return torch.stack([1 - part[:, 0], part[:, 0]], dim=1)


X = np.array([[0.5], [1.0], [0.0], [0.25]], dtype=np.float32)
COST = np.array([[[0, 2], [0, 0]], [[0, -1], [0, 0]], [[0, 5], [0, 5]], [[0, 0], [1, 0]]], dtype=np.float32)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_policy_on_another_device_is_asked_there(as_dict: bool) -> None:
    box = spaces.Box(-1, 1, (5,))
    space, rows = (spaces.Dict({"a": box}), {"a": torch.zeros(2, 5)}) if as_dict else (box, torch.zeros(2, 5))
    policy = CostActorCriticPolicy(space, spaces.Discrete(3), lambda _: 1e-3).to("meta")
    found = policy.probabilities(rows)
    assert (found.device.type, found.shape) == ("meta", (2, 3))


def test_expected_cost_matches_the_sum_computed_by_hand() -> None:
    # First constraint: (0.5 * 2 + 1 * -1 + 0 * 5 + 0) / 4 = 0. Second: (0 + 0 + 0 + 0.75 * 1) / 4 = 0.1875.
    assert RetentionBuffer(X, COST).expected_cost(_First()).tolist() == [0.0, 0.1875]


def test_dict_observations_give_the_same() -> None:
    assert RetentionBuffer({"a": X}, COST).expected_cost(_First()).tolist() == [0.0, 0.1875]


def test_rows_without_cost_count_but_are_not_kept() -> None:
    buffer = RetentionBuffer(np.concatenate([X, X]), np.concatenate([COST, np.zeros_like(COST)]))
    assert len(buffer.cost) == 4
    assert buffer.expected_cost(_First()).tolist() == [0.0, 0.09375]


def test_several_passes_add_up_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RetentionBuffer(X, COST, margin=1.0)
    expected, decided = whole.expected_cost(_First()), whole.decided_cost(_First())
    monkeypatch.setattr(retention, "CHUNK", 3)
    assert RetentionBuffer(X, COST).expected_cost(_First()).tolist() == [0.0, 0.1875]
    assert whole.expected_cost(_First()) == pytest.approx(expected)
    assert np.stack(whole.decided_cost(_First())) == pytest.approx(np.stack(decided))


def test_the_margin_adds_standard_errors_of_the_cost_of_a_drawn_action() -> None:
    expected = RetentionBuffer(X, COST, margin=2.0).expected_cost(_First())
    # First: squares 0.5 * 4 + 1 * 1 + 0 = 3, over 4 rows 0.75, less 0 squared; 2 * sqrt(0.75 / 4) = 0.8660.
    # Second: squares 0.75 / 4 = 0.1875, less 0.1875 squared = 0.15234; 2 * sqrt(0.15234 / 4) = 0.39031.
    assert expected == pytest.approx([0.866025, 0.1875 + 0.390312], abs=1e-6)


def test_the_margin_of_expected_costs_is_counted_in_the_squares_that_are_given() -> None:
    x = np.array([[0.6], [1.0], [0.4], [0.25]], dtype=np.float32)  # actions 1, 1, 0, 0
    mean, cautious = RetentionBuffer(x, COST, margin=2.0, square=np.full_like(COST, 9.0)).decided_cost(_First())
    # Squares 9 on every row, less 1 / 16: 2 * sqrt(8.9375 / 4) = 2.98957.
    assert mean.tolist() == [0.25, 0.25]
    assert cautious == pytest.approx([3.239565, 3.239565], abs=1e-6)


def test_rows_whose_expected_cost_is_zero_still_have_an_error() -> None:
    buffer = RetentionBuffer(X, np.zeros_like(COST), margin=1.0, square=np.ones_like(COST))
    assert buffer.expected_cost(_First()) == pytest.approx([0.5, 0.5])  # sqrt(1 / 4)


def test_the_expected_cost_of_a_policy_that_decides_is_that_of_its_decisions() -> None:
    x = np.array([[0.6], [1.0], [0.4], [0.25]], dtype=np.float32)
    assert RetentionBuffer(x, COST, decided=True).expected_cost(_First()).tolist() == [0.25, 0.25]


def test_rows_without_cost_count_in_the_margin() -> None:
    buffer = RetentionBuffer(np.concatenate([X, X]), np.concatenate([COST, np.zeros_like(COST)]), margin=1.0)
    # First: squares 3 over 8 rows, mean 0; sqrt(0.375 / 8).
    assert buffer.expected_cost(_First())[0] == pytest.approx(np.sqrt(0.375 / 8))


def test_decisions_cost_what_their_most_probable_action_costs() -> None:
    x = np.array([[0.6], [1.0], [0.4], [0.25]], dtype=np.float32)  # actions 1, 1, 0, 0
    mean, cautious = RetentionBuffer(x, COST, margin=2.0).decided_cost(_First())
    # First: (2 - 1 + 0 + 0) / 4; squares 5 / 4 less 1 / 16 = 1.1875; 2 * sqrt(1.1875 / 4) = 1.08972.
    # Second: (0 + 0 + 0 + 1) / 4; squares 1 / 4 less 1 / 16 = 0.1875; 2 * sqrt(0.1875 / 4) = 0.43301.
    assert mean.tolist() == [0.25, 0.25]
    assert cautious == pytest.approx([1.339725, 0.683013], abs=1e-6)


def test_without_a_margin_decisions_cost_their_mean() -> None:
    mean, cautious = RetentionBuffer(X, COST).decided_cost(_First())
    assert mean.tolist() == cautious.tolist() == [-0.25, 0.25]  # a tie goes to SKIP


def test_rows_without_any_cost_cost_nothing() -> None:
    assert RetentionBuffer(X, np.zeros((4, 1, 2))).expected_cost(_First()).tolist() == [0.0]


def test_the_measurement_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    RetentionBuffer(X, COST).expected_cost(_First())
    assert torch.equal(before, torch.get_rng_state())


def test_the_price_does_not_change_when_rows_that_no_constraint_measures_are_added() -> None:
    rng = np.random.default_rng(0)
    score, sets = rng.random((30, 2)), np.arange(30) % 2  # two retention sets, 15 rows of each
    x = rng.random((30, 1)).astype(np.float32)
    more = 70
    score_more = np.concatenate([score, rng.random((more, 2))])
    sets_more = np.concatenate([sets, np.full(more, -1)])
    x_more = np.concatenate([x, rng.random((more, 1)).astype(np.float32)])
    multipliers = []
    for features, scores, members in ((x, score, sets), (x_more, score_more, sets_more)):
        buffer = RetentionBuffer(features, cost_matrix(scores, members, retention_rates(members, 2)))
        multiplier = LagrangeMultiplier(LagrangianConfig(limit=(0.0, 0.01), lr=10.0), 2)
        cost = buffer.expected_cost(_First())
        multipliers.append(multiplier.update(cost))
    drop = (x[:, 0] * (score[:, 0] - score[:, 1])).reshape(15, 2).mean(axis=0)  # of each set's own questions
    np.testing.assert_allclose(cost, drop, atol=1e-6)
    np.testing.assert_allclose(multipliers[0], multipliers[1], atol=1e-5)
    assert np.max(multipliers[0]) > 0


def test_the_smallest_cost_takes_the_cheapest_action_of_every_row() -> None:
    # First constraint: (0 - 1 + 0 + 0) / 4; second: nothing.
    assert RetentionBuffer(X, COST).smallest_cost().tolist() == [-0.25, 0.0]
    assert RetentionBuffer(X, COST + 1.0).smallest_cost().tolist() == [0.75, 1.0]


def test_a_limit_that_no_policy_can_meet_is_flagged_before_training() -> None:
    buffer = RetentionBuffer(X, COST + 1.0)
    buffer.check(spaces.Discrete(2), 2, np.array([0.75, 1.0]))  # just possible
    with pytest.warns(
        UserWarning,
        match=r"limit 0\.7 of constraint 0 cannot be met: no policy costs less than 0\.75 .*raise the limit",
    ):
        buffer.check(spaces.Discrete(2), 2, np.array([0.7, 1.0]))


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (COST[:, 0], r"costs of shape \(rows, constraints, actions\), got \(4, 2\)"),
        (COST[:3], r"one cost per observation, got \[4\] of them and 3 costs"),
        (COST * np.nan, r"finite costs"),
    ],
)
def test_costs_that_do_not_fit_are_refused(cost: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetentionBuffer(X, cost)
