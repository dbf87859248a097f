from __future__ import annotations

import math

import pytest
import torch

from supervised.attention import attend

EVERYTHING = torch.ones(1, 2, dtype=torch.bool)


def test_two_heads_by_hand() -> None:
    # Head 1 has channel 0: scores 1 and 0; head 2 has channel 1: scores 0 and 2.
    query, key = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    value = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    first, second = math.e / (math.e + 1), math.e**2 / (math.e**2 + 1)
    assert attend(query, key, value, EVERYTHING, 2)[0, 0].tolist() == pytest.approx([first, second])


def test_a_row_in_which_all_is_masked_is_finite() -> None:
    seen = attend(torch.ones(1, 1, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2), ~EVERYTHING, 1)
    assert seen[0, 0].tolist() == [1.0, 1.0]


def test_gates_change_no_value_but_get_the_gradient_of_soft_weights_even_when_closed() -> None:
    query, key = torch.zeros(1, 1, 1), torch.zeros(1, 2, 1)
    value, mask = torch.tensor([[[1.0], [5.0]]]), torch.tensor([[True, False]])
    gates = torch.tensor([[torch.inf, 0.0]], requires_grad=True)
    seen = attend(query, key, value, mask, 1, gates)
    assert seen.item() == 1.0  # the second token is closed
    seen.sum().backward()
    # Soft weights 1 / (1 + s) and s / (1 + s) with s = sigmoid(x): d/dx = (5 - 1) s (1 - s) / (1 + s)^2, at s = 1/2.
    assert gates.grad is not None
    assert gates.grad[0, 1].item() == pytest.approx(4 * 0.25 / 2.25)


def test_gates_leave_all_other_gradients_as_they_are() -> None:
    torch.manual_seed(0)
    mask, gates = torch.tensor([[True, False, True]]), torch.tensor([[1.0, -1.0, torch.inf]])
    query, key, value = (torch.randn(1, 3, 4, requires_grad=True) for _ in range(3))
    plain, gated = (
        torch.autograd.grad(attend(query, key, value, mask, 2, given).square().sum(), (query, key, value))
        for given in (None, gates)
    )
    for expected, found in zip(plain, gated, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
