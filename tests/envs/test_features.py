"""Features of the base pass against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from envs.features import answer_lengths, as_stored, confidence_features, mean_over


def test_an_answer_ends_with_its_first_end_token() -> None:
    tokens = torch.tensor([[5, 3, 0, 0], [5, 6, 7, 8], [3, 3, 3, 3], [5, 9, 3, 0]])
    assert answer_lengths(tokens, [3]).tolist() == [2, 4, 1, 3]
    assert answer_lengths(tokens, [3, 9]).tolist() == [2, 4, 1, 2]
    assert answer_lengths(tokens, []).tolist() == [4, 4, 4, 4]


def test_confidence_of_two_steps_by_hand() -> None:
    # Step 1: probabilities 1/2, 1/4, 1/4. Step 2: certain. Step 3 is padding for row 0.
    first = torch.tensor([[2.0, 1.0, 1.0]]).log()
    certain = torch.tensor([[0.0, -float("inf"), -float("inf")]])
    values = confidence_features([first, certain, first], torch.tensor([[0, 0, 1]]), np.array([2]))
    entropy = 1.5 * math.log(2)
    expected = [entropy, 0.5, 0.25, math.log(0.5), 2, entropy / 2]
    np.testing.assert_allclose(values, [expected], rtol=1e-6)
    assert values.dtype == np.float32


def test_an_impossible_answer_stays_finite() -> None:
    logits = torch.tensor([[0.0, -float("inf")]])
    assert np.isfinite(confidence_features([logits], torch.tensor([[1]]), np.array([1]))).all()


def test_the_mean_is_over_the_marked_places_only() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(mean_over(states, mask), [[2, 3], [0, 0]])


def test_float16_cuts_what_it_cannot_hold() -> None:
    stored = as_stored(np.array([1e6, -1e6, 0.5], dtype=np.float32), "float16")
    assert stored.tolist() == [65504, -65504, 0.5]
    assert as_stored(np.array([1e6]), "float32").dtype == np.float32


@pytest.mark.parametrize("size", [1, 3])
def test_half_precision_logits_are_read_in_single_precision(size: int) -> None:
    logits = [torch.zeros(2, 4, dtype=torch.bfloat16) for _ in range(size)]
    values = confidence_features(logits, torch.zeros(2, size, dtype=torch.long), np.array([size, 1]))
    np.testing.assert_allclose(values[:, 0], math.log(4), rtol=1e-6)
