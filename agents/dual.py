"""The price of a constraint before anything is learned: rewards [n, A] and costs [n, K, A] go in, multipliers [K] out.

Where every action's outcome can be predicted, the best multipliers minimise the Lagrangian's dual function,
`mean_i max_a (reward[i, a] - multiplier . cost[i, :, a]) + multiplier . limit`, a convex one (Altman 1999, chapter 3).
Its slope along one multiplier is limit - cost, so each is found by bisection, in turn until none moves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

SWEEPS, HALVINGS = 20, 16


def solve_multipliers(
    reward: np.ndarray,
    cost: np.ndarray,
    limits: np.ndarray,
    maximum: float,
    paid: np.ndarray | None = None,
    margin: float = 0.0,
) -> np.ndarray:
    """Return the multipliers [K], each between 0 and `maximum`, that price the limits on these rows.

    Args:
        reward: predicted, of every action, [n, A].
        cost: predicted, of every action, [n, K, A].
        limits: on the mean cost, [K].
        maximum: largest multiplier; where even it does not bring the cost to the limit, it is returned.
        paid: what every action really cost, [n, K, A], which the limits hold for; None: what was predicted.
        margin: standard errors that are added to the mean of `paid`.
    """
    paid = cost if paid is None else paid

    def spent(k: int, multipliers: np.ndarray) -> Callable[[float], float]:
        others = np.where(np.arange(len(multipliers)) == k, 0.0, multipliers).astype(np.float32)
        worth = reward - np.einsum("nka,k->na", cost, others)  # [n, A]
        return partial(_spent, worth, cost[:, k], paid[:, k], margin)

    return settle(spent, limits, maximum)


def settle(
    spent: Callable[[int, np.ndarray], Callable[[float], float]],
    limits: np.ndarray,
    maximum: float,
    sweeps: int = SWEEPS,
) -> np.ndarray:
    """Return multipliers [K] that bring every cost within its limit, each found by bisection, in turn until none moves.

    Args:
        spent: takes a constraint and all multipliers [K]; gives its cost as a function of its own multiplier.
        limits: on the costs, [K].
        maximum: largest multiplier; where even it does not bring the cost to the limit, it is returned.
        sweeps: turns at most.
    """
    multipliers = np.zeros(len(limits))
    for _ in range(sweeps):
        before = multipliers.copy()
        for k, limit in enumerate(limits):
            multipliers[k] = bisect(spent(k, multipliers), float(limit), maximum)
        moved = np.abs(multipliers - before).max(initial=0.0)
        if len(limits) == 1 or moved <= 1e-3 * max(maximum, 1.0):
            break
    return multipliers


def bisect(spent: Callable[[float], float], limit: float, maximum: float) -> float:
    """Return the smallest multiplier between 0 and `maximum` whose cost `spent` is within the limit, or `maximum`."""
    if spent(0.0) <= limit:
        return 0.0
    low, high = 0.0, maximum
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > limit else (low, middle)
    return high


def _spent(worth: np.ndarray, cost: np.ndarray, paid: np.ndarray, margin: float, multiplier: float) -> float:
    actions = (worth - np.float32(multiplier) * cost).argmax(axis=1)
    costs = np.take_along_axis(paid, actions[:, None], axis=1)
    return float(costs.mean(dtype=np.float64) + margin * costs.std(dtype=np.float64) / np.sqrt(len(costs)))
