"""Statistics of a certificate: counts or losses of n independent questions go in, p-values and upper bounds come out.

A p-value is for the hypothesis that the true mean lies above the limit: small means that the limit holds.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import betaincc, betaincinv  # scipy.stats would take half a second to import

BET = 0.75
"""Largest share of the wealth that one question may cost (c of arXiv:2010.09686, whose authors suggest 1/2 or 3/4)."""
SMALLEST_LIMIT = 1e-9
"""Limit below which `questions_needed` gives up: nobody has so many questions, and counts leave the integers."""
MOST = 1 << 20
"""Questions beyond which `clean_drops_needed` gives up."""


def binomial_p_value(count: np.ndarray | int, n: int, limit: float) -> np.ndarray:
    """Return the probability of at most `count` events in n questions if each has one with probability `limit`.

    Args:
        count: events seen, any shape.
        n: questions.
        limit: largest rate allowed; no rate is above 1.

    Returns:
        float64 of the shape of `count`.
    """
    count = np.asarray(count)
    # The binomial distribution function as an incomplete beta integral (Abramowitz and Stegun, 26.5.24).
    return np.zeros(count.shape) if limit >= 1 else np.asarray(betaincc(count + 1, n - count, limit), dtype=np.float64)


def upper_bound(count: int, n: int, delta: float) -> float:
    """Return the bound above which the rate lies with probability `delta` at most (Clopper and Pearson, 1934)."""
    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - delta))


def questions_needed(rate: float, limit: float, delta: float) -> int | None:
    """Return how many questions certify the limit if events go on at `rate`; None: no number does, or too many."""
    if rate >= limit or limit < SMALLEST_LIMIT:
        return None
    if rate <= 0:
        return _fewest(0, limit, delta)

    def enough(count: int) -> bool:
        return rate * _fewest(count, limit, delta) <= count + 1e-9

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > 1 << 40:
            return None  # so close to the limit that nobody will ask so many questions
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return _fewest(high, limit, delta)


@lru_cache(maxsize=1024)
def _fewest(count: int, limit: float, delta: float) -> int:
    """Return the smallest n for which `count` events still certify the limit."""
    low, high = count, count + 1  # n = count events in n questions never certify a limit below 1
    while binomial_p_value(count, high, limit) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_p_value(count, middle, limit) > delta else (low, middle)
    return high


def betting_p_value(losses: np.ndarray, limit: float, delta: float) -> np.ndarray:
    """Return p-values for the hypothesis that losses have a mean above `limit`.

    A gambler bets on every question that its loss is below the limit. If the hypothesis is true, wealth grows beyond
    1 / p with probability p at most (Ville). Bets are predictable plug-ins (Waudby-Smith and Ramdas, arXiv:2010.09686),
    for losses mapped from [-1, 1] to [0, 1].

    Args:
        losses: (..., n) in [-1, 1], in an order that does not depend on them.
        limit: largest mean allowed.
        delta: the level that the bets are tuned to; the p-value is valid at any.

    Returns:
        float64 (...).
    """
    losses = np.asarray(losses, dtype=np.float64)
    n = losses.shape[-1]
    if limit >= 1:
        return np.zeros(losses.shape[:-1])
    if n == 0:
        return np.ones(losses.shape[:-1])
    scaled, mean = (1 + losses) / 2, (1 + limit) / 2
    seen = np.arange(2, n + 2)  # with one imagined question of mean 1/2 and variance 1/4
    running = (0.5 + np.cumsum(scaled, axis=-1)) / seen  # (..., n)
    variance = (0.25 + np.cumsum(np.square(scaled - running), axis=-1)) / seen
    known = np.concatenate([np.full((*losses.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)  # before the bet
    bet = np.minimum(np.sqrt(2 * math.log(1 / delta) / (n * known)), BET / (1 - mean))
    wealth = np.cumsum(np.log1p(-bet * (scaled - mean)), axis=-1)  # (..., n), logarithms
    return np.exp(-np.maximum(wealth.max(axis=-1), 0.0))


def betting_bound(losses: np.ndarray, delta: float) -> float:
    """Return the smallest limit, to 1e-6, that the losses [n] certify with confidence 1 - delta."""
    low, high = -1.0, 1.0  # the p-value falls as the limit grows, and a limit of 1 always holds
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if betting_p_value(losses, middle, delta) <= delta else (middle, high)
    return high


@lru_cache(maxsize=64)
def clean_drops_needed(limit: float, delta: float) -> int | None:
    """Return how many questions without any loss or gain certify the limit by betting; None: above a million."""
    low, high = 0, 256
    while betting_p_value(np.zeros(high), limit, delta) > delta:
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if betting_p_value(np.zeros(middle), limit, delta) > delta else (low, middle)
    return high


def drops_needed(losses: np.ndarray, limit: float, delta: float) -> int | None:
    """Return about how many questions certify the limit if losses go on like these [n]; None: no number, or too many.

    At the best bet, wealth grows by the factor exp(gap^2 / (2 variance)) a question; 1 / delta of it is needed.
    """
    clean = clean_drops_needed(limit, delta)
    if clean is None or len(losses) == 0 or losses.mean() >= limit:
        return None
    gap = limit - float(losses.mean())
    return max(clean, math.ceil(2 * math.log(1 / delta) * float(losses.var()) / gap**2))
