from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from supervised.diagnostics.cka import linear_cka, per_layer
from supervised.errors import DataError


def normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("debiased", [True, False])
def test_states_are_like_themselves(debiased: bool) -> None:
    x = normal(20, 8, 0)
    assert linear_cka(x, x, debiased) == pytest.approx(1)


@pytest.mark.parametrize("debiased", [True, False])
def test_rotations_factors_and_shifts_do_not_count(debiased: bool) -> None:
    x = normal(20, 8, 0)
    rotation = torch.linalg.qr(normal(8, 8, 1)).Q
    assert linear_cka(x, -3 * x @ rotation + 5, debiased) == pytest.approx(1, abs=1e-5)


def test_independent_states_are_near_zero_only_without_the_bias() -> None:
    x, y = normal(64, 256, 0), normal(64, 256, 1)
    assert abs(linear_cka(x, y)) < 0.05
    assert linear_cka(x, y, debiased=False) > 0.7  # few rows, many dimensions: everything looks alike


def test_of_one_dimension_each_the_biased_cka_is_the_squared_correlation() -> None:
    x, y = torch.tensor([[1.0], [2], [3], [4]]), torch.tensor([[1.0], [3], [2], [4]])
    # Centred: (-1.5, -0.5, 0.5, 1.5) and (-1.5, 0.5, -0.5, 1.5); product 4, squares 5 and 5; (4 / 5)^2.
    assert linear_cka(x, y, debiased=False) == pytest.approx(0.64)


def test_the_debiased_cka_is_that_of_the_u_statistic() -> None:
    """Song et al. (2012), equation 4: the mean over all (i, j, q, r) of K_ij (L_ij + L_qr - 2 L_iq)."""
    x, y = normal(6, 3, 2).double(), normal(6, 2, 3).double() + normal(6, 3, 2).double()[:, :2]

    def hsic(k: Tensor, m: Tensor) -> float:
        terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(6), 4)]
        return float(sum(terms) / len(terms))

    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 30), st.integers(1, 12), st.integers(0, 99))
def test_it_is_symmetric(rows: int, width: int, seed: int) -> None:
    x, y = normal(rows, width, seed), normal(rows, width, seed + 1)
    first, second = linear_cka(x, y), linear_cka(y, x)
    assert first == pytest.approx(second, abs=1e-9) or (math.isnan(first) and math.isnan(second))


def test_states_that_do_not_vary_have_none() -> None:
    constant = torch.full((8, 4), 0.1)
    assert math.isnan(linear_cka(constant, normal(8, 4, 0)))
    layers = torch.stack([constant, normal(8, 4, 0)])
    assert per_layer(layers, layers, torch.ones(8, dtype=torch.bool)) == [None, pytest.approx(1)]


def test_only_the_chosen_rows_count() -> None:
    x, y = normal(12, 4, 0), normal(12, 4, 1)
    y[:6] = x[:6]
    chosen = torch.arange(12) < 6
    assert per_layer(x[None], y[None], chosen) == [pytest.approx(1)]
    assert (per_layer(x[None], y[None], ~chosen)[0] or 0) < 0.9


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="at least 4 rows with as many, got 3 and 3"):
        linear_cka(normal(3, 2, 0), normal(3, 2, 0))
    with pytest.raises(DataError, match="got 5 and 6"):
        linear_cka(normal(5, 2, 0), normal(6, 2, 0))
