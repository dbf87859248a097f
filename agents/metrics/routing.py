"""How well a score ranks questions: scores and outcomes go in, APGR, CPT and the area under the hull come out.

The rows are walked from the highest score down. After k rows the share k / n of them hears audio, and accuracy and
latency are those of that decision: a curve from never (k = 0) to audio everywhere (k = n). Rows of equal score are
joined by a straight line, which is what drawing them in random order gives on average; so are neighbours in the order
where there are more than 4,096 different scores.

    PGR(t)   (accuracy(t) - never) / (always - never)
    APGR     mean of PGR over the share that hears audio (Ong et al. 2024, RouteLLM); 0.5 for a coin
    CPT(x)   share at which PGR first reaches x
    AIQ      area under the non-decreasing concave hull of accuracy over latency, from the latency of never to that of
             always, divided by that range (Hu et al. 2024, RouterBench, with the range fixed)
"""

from __future__ import annotations

import numpy as np

from agents.metrics.resamples import Interval, Resamples, interval
from envs.actions import Action
from envs.batch import OutcomeBatches
from supervised.errors import ConfigError

TARGETS = {"cpt50": 0.5, "cpt80": 0.8, "cpt95": 0.95}
CURVE_METRICS = ("apgr", *TARGETS, "aiq")
CURVE_RESAMPLES = 200
"""Resamples of curves at most: each one is a walk over a curve and its hull."""
STEPS = 4096
"""Steps that a curve has at most."""
HULL_POINTS = 201
"""The hull is that of so many points of the curve: shares of 0, 0.5, 1, ... 100 %."""


class Routing:
    """Judges rankings of the same rows on the same resamples.

    Args:
        rows: of one split.
        resamples: of the same rows.
    """

    def __init__(self, rows: OutcomeBatches, resamples: Resamples) -> None:
        self.rows, self.resamples = rows, resamples
        self.score = rows.split.score.astype(np.float64)  # [n, A]
        self.latency = rows.split.latency_ms.astype(np.float64)  # [n, A]
        everything = np.ones((1, resamples.groups))
        self._counts = np.concatenate([everything, resamples.counts[:CURVE_RESAMPLES]])  # [1 + b, G]

    def metrics(self, scores: np.ndarray, paying: np.ndarray) -> dict[str, Interval | None]:
        """Return the curve metrics with 95 % intervals; None where one is not defined.

        APGR and CPT are not defined unless always is more accurate than never, CPT(x) not where a seed's curve never
        gets so far, AIQ not unless always costs more than never. In a resample where it is not defined a metric is
        left out; with several seeds it is the mean over them.

        Args:
            scores: the higher, the sooner audio is used, [S, n]; only their order counts.
            paying: the action that is taken where audio is used, int64 [S, n] or [n].
        """
        scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
        if scores.shape[1] != len(self.rows) or np.isnan(scores).any():
            raise ConfigError(
                f"scores must have shape (seeds, {len(self.rows)}) and no NaN, got {scores.shape} with "
                f"{np.isnan(scores).sum()} NaN; give every row a number."
            )
        paying = np.broadcast_to(np.asarray(paying, dtype=np.int64), scores.shape)
        figures = np.stack([self._figures(*pair) for pair in zip(scores, paying, strict=True)], axis=1)  # [1 + b, S, M]
        result: dict[str, Interval | None] = {}
        for m, name in enumerate(CURVE_METRICS):
            mean, drawn = float(figures[0, :, m].mean()), self.resamples.over_seeds(figures[1:, :, m])
            defined = np.isfinite(mean) and np.isfinite(drawn).any()
            result[name] = interval(mean, drawn) if defined else None
        return result

    def zero_router(self) -> float | None:
        """Return the AIQ of coin tosses between never and always, the line to beat."""
        never, always = self.score[:, Action.SKIP].mean(), self.score[:, -1].mean()
        low, high = self.latency[:, Action.SKIP].mean(), self.latency[:, -1].mean()
        if high <= low:
            return None
        return hull_area(np.array([low, high]), np.array([never, always]), low, high)

    def _figures(self, ranking: np.ndarray, paying: np.ndarray) -> np.ndarray:
        """Return the metrics [1 + b, M] of one ranking, on all rows and on every resample, NaN where not defined."""
        order = np.argsort(-ranking, kind="stable")
        ordered = ranking[order]  # compared, not subtracted: scores may be infinite
        steps = np.cumsum(np.append(0, ordered[1:] != ordered[:-1]))  # [n], equal scores make one step
        if steps[-1] >= STEPS:
            steps = steps * STEPS // (steps[-1] + 1)
        step = np.empty_like(steps)
        step[order] = steps
        rows = np.arange(len(ranking))
        total = self._summed(np.ones(len(rows)))  # [1 + b]
        never, always = (self._summed(self.score[:, action]) / total for action in (int(Action.SKIP), -1))
        cheap, dear = (self._summed(self.latency[:, action]) / total for action in (int(Action.SKIP), -1))
        gain, extra = (values[rows, paying] - values[:, Action.SKIP] for values in (self.score, self.latency))
        share = self._walk(step, np.ones(len(rows)), total)  # [1 + b, E + 1], 0 to 1
        accuracy = never[:, None] + self._walk(step, gain, total)
        latency = cheap[:, None] + self._walk(step, extra, total)
        area = (np.diff(share) * (accuracy[:, 1:] + accuracy[:, :-1]) / 2).sum(axis=1)
        better = np.where(always > never, always - never, np.nan)
        columns = [(area - never) / better]
        columns += [first_crossing(share, accuracy, never + target * better) for target in TARGETS.values()]
        columns.append(_aiq(share, accuracy, latency, cheap, dear))
        return np.stack(columns, axis=1)

    def _summed(self, values: np.ndarray) -> np.ndarray:
        """Return sums over the rows of everything and of every resample, [1 + b] for values [n]."""
        return np.asarray(self._counts @ np.bincount(self.resamples.group, values, self.resamples.groups))

    def _walk(self, step: np.ndarray, values: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Return the running mean of values [n] after every step, from 0 on: [1 + b, E + 1]."""
        from scipy.sparse import csr_array

        by_group = csr_array((values, (step, self.resamples.group)), shape=(step.max() + 1, self.resamples.groups))
        sums = np.cumsum((by_group @ self._counts.T).T, axis=1) / total[:, None]
        return np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)


def first_crossing(share: np.ndarray, accuracy: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the share at which each curve first reaches its target, [b]; NaN where it never does.

    Accuracy may fall again: what counts is the first crossing, which is that of its running maximum.

    Args:
        share: [b, E], ascending.
        accuracy: [b, E].
        target: [b]; NaN is never reached.
    """
    reached = accuracy >= target[:, None] - 1e-9  # the sums are rounded
    at = reached.argmax(axis=1)  # first True
    before = np.maximum(at - 1, 0)
    rows = np.arange(len(at))
    low, high = accuracy[rows, before], accuracy[rows, at]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(high > low, (target - low) / (high - low), 1.0).clip(0, 1)
    crossing = share[rows, before] + part * (share[rows, at] - share[rows, before])
    return np.asarray(np.where(reached.any(axis=1), crossing, np.nan))


def upper_hull(cost: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the non-decreasing concave hull of points, by ascending cost.

    What lies on it is reached by tossing a coin between two corners (Andrew's monotone chain, upper half).

    Args:
        cost: [m].
        accuracy: [m].
    """
    corners: list[tuple[float, float]] = []
    for x, y in sorted(zip(cost.tolist(), accuracy.tolist(), strict=True), key=lambda point: (point[0], -point[1])):
        if corners and y <= corners[-1][1]:
            continue  # dearer and not better
        while len(corners) > 1 and _turns_up(corners[-2], corners[-1], (x, y)):
            corners.pop()
        corners.append((x, y))
    return np.array([x for x, _ in corners]), np.array([y for _, y in corners])


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Tell whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def hull_area(cost: np.ndarray, accuracy: np.ndarray, low: float, high: float) -> float:
    """Return the area under the hull of points from cost `low` to `high`, divided by that range.

    Before its first corner the hull is that corner's accuracy, after its last one it stays level.
    """
    x, y = upper_hull(cost, accuracy)
    inside = (x > low) & (x < high)
    at = np.concatenate([[low], x[inside], [high]])
    values = np.interp(at, x, y)
    return float((np.diff(at) * (values[1:] + values[:-1]) / 2).sum() / (high - low))


def _aiq(
    share: np.ndarray, accuracy: np.ndarray, latency: np.ndarray, cheap: np.ndarray, dear: np.ndarray
) -> np.ndarray:
    grid = np.linspace(0, 1, HULL_POINTS)
    result = np.full(len(share), np.nan)
    for i in np.flatnonzero(dear > cheap):
        cost, value = (np.interp(grid, share[i], curve[i]) for curve in (latency, accuracy))
        result[i] = hull_area(cost, value, float(cheap[i]), float(dear[i]))
    return result
