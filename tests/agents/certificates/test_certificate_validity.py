"""The promise itself, by simulation: of many calibration sets from a known population, at most a share delta misleads.

Utility rises all the way down, so the lowest certified threshold is chosen: the choice that breaks a limit most often.
Every population is also given to the naive rule, the lowest threshold whose *observed* rate is within the limit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from agents.certificates.certificate import NEVER
from agents.certificates.certified_threshold import CalibrationRows, choose_threshold, threshold_grid
from agents.config import CertifyConfig

pytestmark = pytest.mark.slow

DELTA, DRAWS = 0.05, 1000
MOST = int(binom.ppf(0.9999, DRAWS, DELTA))
"""Breaches in 1,000 draws that a true promise exceeds with probability 1e-4."""
LIMIT = 0.02
QUESTIONS = 523  # five events in 523 questions have p = 0.0499: the test uses up delta, none of it is slack

Draw = Callable[[np.random.Generator], CalibrationRows]


def rows_of(use: np.ndarray, loss: np.ndarray, group: np.ndarray | None = None, sets: int = 1) -> CalibrationRows:
    n = len(use)
    return CalibrationRows(
        use_probability=use,
        use_action=np.ones(n, dtype=np.int64),
        score=np.stack([loss > 0, loss < 0], axis=1).astype(float),
        retention_set=np.arange(n) % sets,
        group=np.arange(n) if group is None else group,
        reward=np.tile(np.array([0.0, 1.0]), (n, 1)),
    )


def breaches(
    draw: Draw, true_rate: Callable[[float], float], config: CertifyConfig, grid: np.ndarray | None = None
) -> tuple[int, int, int]:
    """Return how many of the draws mislead the certificate and the naive rule, and how many certify something."""
    rng = np.random.default_rng(0)
    certified = naive = something = 0
    for _ in range(DRAWS):
        rows = draw(rng)
        sets = int(rows.retention_set.max()) + 1
        choice = choose_threshold(rows, {str(k): LIMIT for k in range(sets)}, config, grid)
        certified += true_rate(choice.threshold) > LIMIT
        something += choice.threshold != NEVER
        naive += true_rate(naive_threshold(rows, config, grid)) > LIMIT
    return certified, naive, something


def naive_threshold(rows: CalibrationRows, config: CertifyConfig, grid: np.ndarray | None) -> float:
    limited = {"harm": rows.loss > 0, "usage": np.ones(len(rows.loss)), "drop": rows.loss}[config.method]
    grid = threshold_grid(rows.use_probability, 1000) if grid is None else grid
    order = np.argsort(-rows.use_probability)
    opened = np.searchsorted(-rows.use_probability[order], -grid, side="right")
    observed = np.concatenate([[0.0], np.cumsum(limited[order])])[opened] / len(order)
    return float(grid[np.flatnonzero(observed <= LIMIT).max()])


def test_the_harm_certificate_breaks_its_limit_in_at_most_delta_of_the_draws() -> None:
    """One question in ten is harmed where audio is used; the grid is laid by the very rows that are tested."""

    def draw(rng: np.random.Generator) -> CalibrationRows:
        return rows_of(rng.random(QUESTIONS), rng.random(QUESTIONS) < 0.1)

    certified, naive, something = breaches(draw, lambda t: 0.1 * (1 - min(t, 1)), CertifyConfig())
    assert DELTA * DRAWS / 2 < certified <= MOST  # not far below either: it is exact, not merely careful
    assert naive > 5 * MOST
    assert something == DRAWS


def test_the_usage_certificate_breaks_its_limit_in_at_most_delta_of_the_draws() -> None:
    """Three questions in a hundred are likely to be opened, with probabilities that many of them share."""

    def draw(rng: np.random.Generator) -> CalibrationRows:
        likely = rng.random(QUESTIONS) < 0.03
        return rows_of(np.where(likely, rng.random(QUESTIONS), 0.0).round(3), np.zeros(QUESTIONS))

    # A value v has been rounded from within 0.0005 of it.
    def true_rate(threshold: float) -> float:
        return 1.0 if threshold == 0 else 0.03 * (1 - min((np.ceil(threshold * 1000) - 0.5) / 1000, 1))

    certified, naive, something = breaches(draw, true_rate, CertifyConfig(method="usage"))
    assert DELTA * DRAWS / 4 < certified <= MOST
    assert naive > 4 * MOST
    assert something == DRAWS


LEVELS = np.arange(0.95, 0.0, -0.1)  # ten probabilities of use, equally frequent
NET = np.array([0.0, 0.0, 0.05, 0.1, 0.055, 0.3, 0.3, -0.2, -0.5, -0.9])
"""Mean loss at each: the drop crosses the limit at the fifth, peaks at the seventh, and is a gain at the end."""


def test_the_drop_certificate_breaks_its_limit_in_at_most_delta_of_the_draws() -> None:
    drops = dict(zip([NEVER, *(LEVELS - 0.05)], [0.0, *np.cumsum(NET) / 10], strict=True))
    assert drops[LEVELS[4] - 0.05] == pytest.approx(LIMIT + 0.0005)
    assert drops[LEVELS[9] - 0.05] < 0

    def draw(rng: np.random.Generator) -> CalibrationRows:
        level = rng.integers(10, size=1000)
        loss = rng.random(1000) < 0.05 + np.maximum(NET[level], 0)  # beside the net effect, some that cancel
        gain = rng.random(1000) < (0.05 + np.maximum(-NET[level], 0)) / (1 - 0.05 - np.maximum(NET[level], 0))
        return rows_of(LEVELS[level], np.where(loss, 1.0, np.where(gain, -1.0, 0.0)))

    grid = np.array([NEVER, *(LEVELS - 0.05)])
    certified, naive, something = breaches(draw, drops.__getitem__, CertifyConfig(method="drop"), grid)
    assert 0 < certified <= MOST
    assert something > DRAWS / 2
    # The naive rule jumps to the end, where the drop is a gain; without those levels it breaks the limit.
    short = grid[:6]
    certified, naive, _ = breaches(draw, drops.__getitem__, CertifyConfig(method="drop"), short)
    assert certified <= MOST < naive / 4


def test_two_sets_that_must_both_pass_break_a_limit_in_at_most_delta_of_the_draws() -> None:
    """The second set is harmed as the first is in the other tests, the first hardly at all."""

    def draw(rng: np.random.Generator) -> CalibrationRows:
        n = 2 * QUESTIONS
        return rows_of(rng.random(n), rng.random(n) < np.where(np.arange(n) % 2, 0.1, 0.005), sets=2)

    certified, naive, _ = breaches(draw, lambda t: 0.1 * (1 - min(t, 1)), CertifyConfig())
    assert DELTA * DRAWS / 2 < certified <= MOST < naive


def test_clusters_of_equal_questions_mislead_no_more_often_than_single_ones() -> None:
    """Four questions of a picture are harmed together. Asked all, they would look like four times the evidence."""

    def draw(rng: np.random.Generator, clusters: bool) -> CalibrationRows:
        use, harm = np.repeat(rng.random(QUESTIONS), 4), np.repeat(rng.random(QUESTIONS) < 0.1, 4)
        return rows_of(use, harm, np.repeat(np.arange(QUESTIONS), 4) if clusters else None)

    def true_rate(threshold: float) -> float:
        return 0.1 * (1 - min(threshold, 1))

    honest = breaches(lambda rng: draw(rng, clusters=True), true_rate, CertifyConfig())[0]
    fooled = breaches(lambda rng: draw(rng, clusters=False), true_rate, CertifyConfig())[0]
    assert DELTA * DRAWS / 2 < honest <= MOST
    assert fooled > 2 * MOST
