from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import retention
from agents.retention import RetentionBuffer


class _First:
    """Takes action 1 with the probability that the first column of the observation gives."""

    def probabilities(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        part = observations["a"] if isinstance(observations, dict) else observations
        return torch.stack([1 - part[:, 0], part[:, 0]], dim=1)


X = np.array([[0.5], [1.0], [0.0], [0.25]], dtype=np.float32)
COST = np.array([[[0, 2], [0, 0]], [[0, -1], [0, 0]], [[0, 5], [0, 5]], [[0, 0], [1, 0]]], dtype=np.float32)


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
    monkeypatch.setattr(retention, "CHUNK", 3)
    assert RetentionBuffer(X, COST).expected_cost(_First()).tolist() == [0.0, 0.1875]


def test_rows_without_any_cost_cost_nothing() -> None:
    assert RetentionBuffer(X, np.zeros((4, 1, 2))).expected_cost(_First()).tolist() == [0.0]


def test_the_measurement_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    RetentionBuffer(X, COST).expected_cost(_First())
    assert torch.equal(before, torch.get_rng_state())


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
