"""Linear centred kernel alignment (Kornblith et al., arXiv:1905.00414): how alike two sets of states are.

    CKA(X, Y) = HSIC(X X', Y Y') / sqrt(HSIC(X X', X X') HSIC(Y Y', Y Y'))

Unchanged by rotations and by a common factor. Debiased: HSIC by the unbiased estimator of Song et al. (JMLR 13, 2012,
equation 5), as recommended for few rows and many dimensions (Davari et al., arXiv:2210.16156); its expectation is 0
for independent states, and single values may fall a little below 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from supervised.errors import DataError

LEAST = 4
"""Rows that the unbiased estimator needs."""


def linear_cka(x: Tensor, y: Tensor, debiased: bool = True) -> float:
    """Return the linear CKA of states x (n, D) and y (n, D'); NaN where one of them does not vary.

    Raises:
        DataError: the rows differ in number, or are fewer than 4.
    """
    if len(x) != len(y) or len(x) < LEAST:
        raise DataError(f"CKA compares at least {LEAST} rows with as many, got {len(x)} and {len(y)}; give more.")
    hsic = _unbiased if debiased else _biased
    x, y = (_centred(states) for states in (x, y))
    gram_x, gram_y = x @ x.T, y @ y.T  # (n, n)
    own = hsic(gram_x, gram_x) * hsic(gram_y, gram_y)
    return hsic(gram_x, gram_y) / math.sqrt(own) if own > 0 else math.nan


def _centred(states: Tensor) -> Tensor:
    """Return the states in float64 with mean 0 and a largest entry of 1, so that no product overflows or vanishes."""
    centred = states.double() - states.double().mean(0)
    largest = centred.abs().max()
    # What is left of equal rows after the mean is taken off is rounding, not variation.
    return centred / largest if largest > 1e-6 * states.abs().max() else torch.zeros_like(centred)


def _biased(k: Tensor, l: Tensor) -> float:  # noqa: E741  (the paper's letter)
    """Return tr(K L) / (n - 1)^2 for centred K and L."""
    return float((k * l).sum()) / (len(k) - 1) ** 2


def _unbiased(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """Return [tr(K L) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 / (n-2) 1'K L 1] / (n (n-3)), the diagonals of K and L at 0."""
    n = len(k)
    k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
    rows_k, rows_l = k.sum(0), l.sum(0)  # (n,)
    total = (k * l).sum() + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_k @ rows_l)
    return float(total) / (n * (n - 3))


def per_layer(base: Tensor, fused: Tensor, chosen: Tensor) -> list[float | None]:
    """Return the debiased CKA of every layer's states (S, m, D), over the rows `chosen` (m,); None: undefined."""
    values = [linear_cka(plain[chosen], heard[chosen]) for plain, heard in zip(base, fused, strict=True)]
    return [None if math.isnan(value) else value for value in values]
