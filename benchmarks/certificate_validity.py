"""The certificate's promise by simulation: in how many of many draws the certified gate breaks its limit.

    python benchmarks/certificate_validity.py [--draws 1000]

Populations are known, so that the true rate at every threshold is. A calibration set is drawn from one, a threshold is
certified on it with delta 0.05, and the true rate at that threshold is compared with the limit. Utility rises all the
way down, so the lowest certified threshold is chosen: the choice that breaks a limit most often. `naive` is the lowest
threshold whose observed rate is within the limit. A promise kept means at most 5 % of the draws, up to what chance adds
to 1,000 of them (6.9 % in one of a hundred simulations).
Prints a table and, as its last line, one JSON object: shares of the draws that break the limit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agents.certificates.certificate import NEVER
from agents.certificates.certified_threshold import CalibrationRows, choose_threshold, threshold_grid
from agents.config import CertifyConfig

LIMIT, QUESTIONS = 0.02, 523  # five events in 523 questions have p = 0.0499: none of delta is slack
RARE, HARMED = 0.03, 0.1
LEVELS = np.arange(0.95, 0.0, -0.1)  # ten probabilities of use, equally frequent
NET = np.array([0.0, 0.0, 0.05, 0.1, 0.055, 0.3, 0.3, -0.2, -0.5, -0.9])  # mean loss at each


@dataclass(frozen=True)
class Population:
    """What calibration sets are drawn from."""

    config: CertifyConfig
    draw: Callable[[np.random.Generator], CalibrationRows]
    true_rate: Callable[[float], float]
    """At a threshold."""
    grid: np.ndarray | None = None


def rows_of(use: np.ndarray, loss: np.ndarray, group: np.ndarray | None = None) -> CalibrationRows:
    """Return rows of one retention set by probability of use [n] and loss [n], 1 for a harm and -1 for a gain."""
    n = len(use)
    return CalibrationRows(
        use_probability=use,
        use_action=np.ones(n, dtype=np.int64),
        score=np.stack([loss > 0, loss < 0], axis=1).astype(float),
        retention_set=np.zeros(n, dtype=np.int64),
        group=np.arange(n) if group is None else group,
        reward=np.tile(np.array([0.0, 1.0]), (n, 1)),
    )


def harm(rng: np.random.Generator) -> CalibrationRows:
    """Draw questions of which one in ten is harmed where audio is used."""
    return rows_of(rng.random(QUESTIONS), (rng.random(QUESTIONS) < HARMED).astype(float))


def clusters(rng: np.random.Generator) -> CalibrationRows:
    """Draw pictures with four questions each, which are harmed together."""
    use, harmed = rng.random(QUESTIONS), (rng.random(QUESTIONS) < HARMED).astype(float)
    return rows_of(np.repeat(use, 4), np.repeat(harmed, 4), np.repeat(np.arange(QUESTIONS), 4))


def usage(rng: np.random.Generator) -> CalibrationRows:
    """Draw questions of which three in a hundred may be opened."""
    likely = rng.random(QUESTIONS) < RARE
    return rows_of(np.where(likely, rng.random(QUESTIONS), 0.0), np.zeros(QUESTIONS))


def drop(rng: np.random.Generator) -> CalibrationRows:
    """Draw questions that lose and gain; the drop crosses the limit at the last of the thresholds tried."""
    level = rng.integers(10, size=1000)
    lose = 0.05 + np.maximum(NET[level], 0)
    loss = rng.random(1000) < lose
    gain = rng.random(1000) < (0.05 + np.maximum(-NET[level], 0)) / (1 - lose)
    return rows_of(LEVELS[level], np.where(loss, 1.0, np.where(gain, -1.0, 0.0)))


def harm_rate(threshold: float) -> float:
    """Return the true share of questions harmed at a threshold."""
    return HARMED * (1 - min(threshold, 1.0))


def usage_rate(threshold: float) -> float:
    """Return the true share of questions opened at a threshold."""
    return 1.0 if threshold == 0 else RARE * (1 - min(threshold, 1.0))


DROPS = dict(zip([NEVER, *(LEVELS - 0.05)], [0.0, *np.cumsum(NET) / 10], strict=True))
POPULATIONS = {
    "harm": Population(CertifyConfig(), harm, harm_rate),
    "harm_clusters": Population(CertifyConfig(), clusters, harm_rate),
    "usage": Population(CertifyConfig(method="usage"), usage, usage_rate),
    "drop": Population(CertifyConfig(method="drop"), drop, DROPS.__getitem__, np.array(list(DROPS)[:6])),
}


def naive_threshold(rows: CalibrationRows, population: Population) -> float:
    """Return the lowest threshold whose observed rate on all rows is within the limit."""
    limited = {"harm": rows.loss > 0, "usage": np.ones(len(rows.loss)), "drop": rows.loss}[population.config.method]
    grid = threshold_grid(rows.use_probability, 1000) if population.grid is None else population.grid
    order = np.argsort(-rows.use_probability)
    opened = np.searchsorted(-rows.use_probability[order], -grid, side="right")
    observed = np.concatenate([[0.0], np.cumsum(limited[order])])[opened] / len(order)
    return float(grid[np.flatnonzero(observed <= LIMIT).max()])


def simulate(population: Population, draws: int) -> tuple[float, float, float]:
    """Return the shares of draws that break the limit, certified and naive, and that certify any use at all."""
    rng = np.random.default_rng(0)
    certified = naive = something = 0
    for _ in range(draws):
        rows = population.draw(rng)
        threshold = choose_threshold(rows, {"set": LIMIT}, population.config, population.grid).threshold
        certified += population.true_rate(threshold) > LIMIT
        naive += population.true_rate(naive_threshold(rows, population)) > LIMIT
        something += threshold != NEVER
    return certified / draws, naive / draws, something / draws


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="calibration sets of every population")
    draws = parser.parse_args().draws
    print(f"{'% of ' + str(draws) + ' draws':<20}{'certified breaks':>18}{'naive breaks':>14}{'certifies use':>15}")
    figures: dict[str, float] = {}
    for name, population in POPULATIONS.items():
        certified, naive, something = simulate(population, draws)
        print(f"{name:<20}{100 * certified:>18.1f}{100 * naive:>14.1f}{100 * something:>15.1f}")
        figures |= {f"{name}_breaks": certified, f"{name}_naive_breaks": naive}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
