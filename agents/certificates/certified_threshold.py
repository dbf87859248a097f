"""The threshold that ships: calibration rows go in, the best threshold whose harm is certified comes out.

A gate uses audio iff its probability of use is at least the threshold. Thresholds are tested from infinity, where audio
is never used, downwards, each by a p-value, and the walk ends at the first that fails (fixed-sequence testing, as in
Learn then Test, arXiv:2110.01052). With probability 1 - delta *every* threshold passed on the way keeps the limit, so
the one with the highest utility may be taken. Several retention sets: all of them must pass (intersection-union test).

The grid must not depend on what it is tested on, with one exception. Events of harm and usage are nested: a lower
threshold keeps every event of a higher one. Let t be where the true rate crosses the limit. A wrong choice lies at or
below t, so t had no more events and would have passed as well; but t is fixed, so that happens with probability delta
at most, whatever the grid was laid by. Net drop can fall again; its grid has to come from other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agents.certificates.bounds import (
    betting_bound,
    betting_p_value,
    binomial_p_value,
    clean_drops_needed,
    drops_needed,
    questions_needed,
    upper_bound,
)
from agents.certificates.certificate import NEVER, SetCertificate
from agents.config import CertifyConfig
from envs.actions import Action
from supervised.errors import ConfigError

GAP = 1e-6
"""Probabilities closer than this are one value: rounding, which differs with the size of a batch, may part them."""
_CELLS = 1 << 22  # losses in memory at once


def threshold_grid(use_probability: np.ndarray, points: int) -> np.ndarray:
    """Return thresholds in falling order, float64 [<= points + 2]: infinity first, 0 (always) last.

    Those in between lie half-way between neighbouring values, so that no decision hangs on rounding; where there are
    more than `points`, they are thinned out evenly by rank.
    """
    values = np.unique(np.asarray(use_probability, dtype=np.float64))[::-1]
    apart = np.flatnonzero(values[:-1] - values[1:] > GAP)
    middles = (values[apart] + values[apart + 1]) / 2
    if len(middles) > points:
        middles = middles[np.unique(np.linspace(0, len(middles) - 1, points).round().astype(int))]
    return np.concatenate([[NEVER], middles, [0.0]])


def draw_questions(group: np.ndarray, eligible: np.ndarray, seed: int | list[int]) -> np.ndarray:
    """Return one eligible row per group, in random order, int64 [m]; outcomes have no part in the draw.

    Args:
        group: cluster of every row, [n]; rows of one cluster are not independent.
        eligible: bool [n].
        seed: of the draw.
    """
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(eligible))
    first = np.unique(group[shuffled], return_index=True)[1]
    return shuffled[np.sort(first)]


@dataclass(frozen=True)
class CalibrationRows:
    """What a gate would do on the calibration rows, and what it would bring."""

    use_probability: np.ndarray
    """[n]"""
    use_action: np.ndarray
    """Action taken where audio is used, [n]"""
    score: np.ndarray
    """[n, A], in [0, 1]"""
    retention_set: np.ndarray
    """-1, or the index of the set, [n]"""
    group: np.ndarray
    """[n]"""
    reward: np.ndarray
    """[n, A], at the final alpha and gamma"""
    carries_audio: np.ndarray | None = None
    """bool [n]; rows without audio are left out of the tests, because nothing can happen to them. None: all do."""

    def __post_init__(self) -> None:
        n = len(self.use_probability)
        for name in ("use_action", "score", "retention_set", "group", "reward"):
            if len(getattr(self, name)) != n:
                raise ConfigError(
                    f"{name} must have one entry per row ({n}), got {len(getattr(self, name))}; give all rows."
                )
        for name in ("use_probability", "score"):
            values = getattr(self, name)
            if not (np.all(values >= 0) and np.all(values <= 1)):  # NaN is neither
                raise ConfigError(f"{name} must lie in [0, 1] and not be NaN; check where it comes from.")
        if not np.isfinite(self.reward).all():
            raise ConfigError("reward must be finite; check scores and latencies.")

    @property
    def loss(self) -> np.ndarray:
        """Score that using audio loses, float64 [n], in [-1, 1]."""
        rows = np.arange(len(self.score))
        base, used = self.score[:, Action.SKIP], self.score[rows, self.use_action]
        return np.asarray(base, dtype=np.float64) - used

    def opened(self, threshold: float) -> np.ndarray:
        """Return whether audio is used, bool [n]."""
        return np.asarray(self.use_probability, dtype=np.float64) >= threshold


@dataclass(frozen=True)
class Choice:
    """The chosen threshold and what speaks for it."""

    threshold: float
    """Infinity: never use audio."""
    wanted: float
    """The threshold that utility alone would choose."""
    passed: int
    """Thresholds certified, infinity included."""
    tried: int
    """Thresholds in the grid."""
    usage: float
    """Share of all calibration rows on which audio is used."""
    utility: float
    """Mean reward over all calibration rows."""
    utility_never: float
    sets: tuple[SetCertificate, ...]
    drawn: list[np.ndarray]
    """Rows tested, per set, in the order drawn."""


def choose_threshold(
    rows: CalibrationRows, limits: Mapping[str, float], config: CertifyConfig, grid: np.ndarray | None = None
) -> Choice:
    """Choose the threshold with the highest utility among those certified; infinity always is.

    Args:
        rows: of the calibration split; they never touched the policy.
        limits: one per retention set, by its name, in the order of their indices.
        config: method, delta, seed, and points of the grid.
        grid: falling thresholds, infinity first, laid without these rows' outcomes; None: by their probabilities.

    Raises:
        ConfigError: a retention set has no row that carries audio, the grid does not fall, or method drop has none.
    """
    if grid is None:
        if config.method == "drop":
            raise ConfigError("certify.method drop needs a grid of thresholds from other rows; give `grid`.")
        grid = threshold_grid(rows.use_probability, config.grid)
    if not (len(grid) and grid[0] == NEVER and np.all(np.diff(grid[1:]) < 0)):
        raise ConfigError("The grid of thresholds must fall, with infinity first; use `threshold_grid`.")
    carries = np.ones(len(rows.score), dtype=bool) if rows.carries_audio is None else rows.carries_audio
    members = [rows.retention_set == k for k in range(len(limits))]
    drawn = [draw_questions(rows.group, member & carries, [config.seed, k]) for k, member in enumerate(members)]
    if not limits or not all(map(len, drawn)):
        raise ConfigError(
            f"Every retention set needs calibration questions with audio, got {list(map(len, drawn))}; add some."
        )
    tests = [_Test(rows, questions, limit, config) for questions, limit in zip(drawn, limits.values(), strict=True)]
    passed = 1
    while passed < len(grid) and all(test.passes(grid, passed) for test in tests):
        passed += 1
    utility, usage = _utilities(rows, grid)
    chosen, wanted = int(np.argmax(utility[:passed])), int(np.argmax(utility))  # a tie goes to less audio
    sets = tuple(
        test.certificate(name, grid[chosen], grid[wanted], int(member.sum()), int((member & ~carries).sum()))
        for name, test, member in zip(limits, tests, members, strict=True)
    )
    return Choice(
        threshold=float(grid[chosen]),
        wanted=float(grid[wanted]),
        passed=passed,
        tried=len(grid),
        usage=float(usage[chosen]),
        utility=float(utility[chosen]),
        utility_never=float(utility[0]),
        sets=sets,
        drawn=drawn,
    )


def _utilities(rows: CalibrationRows, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean reward and share of use over all rows at every threshold, [T] each."""
    use = np.asarray(rows.use_probability, dtype=np.float64)
    reward = np.asarray(rows.reward, dtype=np.float64)
    gain = reward[np.arange(len(reward)), rows.use_action] - reward[:, Action.SKIP]
    order = np.argsort(use, kind="stable")
    opened = len(use) - np.searchsorted(use[order], grid, side="left")  # [T], rows at or above the threshold
    gained = np.concatenate([[0.0], np.cumsum(gain[order][::-1])])[opened]
    return (reward[:, Action.SKIP].sum() + gained) / len(use), opened / len(use)


class _Test:
    """The tests of one retention set: what is limited, on the rows drawn."""

    def __init__(self, rows: CalibrationRows, drawn: np.ndarray, limit: float, config: CertifyConfig) -> None:
        self.limit, self.config = limit, config
        self.use = np.asarray(rows.use_probability, dtype=np.float64)[drawn]  # [m]
        self.loss = rows.loss[drawn]  # [m]
        # Any loss counts as harm, also of a soft score, so that the limit bounds the drop as well.
        self.event = np.ones(len(drawn), dtype=bool) if config.method == "usage" else self.loss > 0
        self._events = np.sort(self.use[self.event])
        self._p: dict[int, float] = {}

    def passes(self, grid: np.ndarray, index: int) -> bool:
        """Whether the threshold is certified on its own."""
        if index not in self._p:
            block = grid[index : index + max(1, min(64, _CELLS // len(self.use)))]
            self._p = dict(enumerate(self.p_values(block).tolist(), index))
        return self._p[index] <= self.config.delta

    def p_values(self, thresholds: np.ndarray) -> np.ndarray:
        """Return p-values [T]."""
        if self.config.method == "drop":
            losses = np.where(self.use >= thresholds[:, None], self.loss, 0.0)  # [T, m]
            return betting_p_value(losses, self.limit, self.config.delta)
        count = len(self._events) - np.searchsorted(self._events, thresholds, side="left")
        return binomial_p_value(count, len(self.use), self.limit)

    def certificate(self, name: str, threshold: float, wanted: float, rows: int, without_audio: int) -> SetCertificate:
        """Describe the set at the chosen threshold and at the one that utility alone would choose."""
        delta, n = self.config.delta, len(self.use)
        k, losses = self._seen(threshold)
        wanted_k, wanted_losses = self._seen(wanted)
        drop = self.config.method == "drop"
        if threshold == NEVER:
            bound = 0.0  # by construction, not by a test
        else:
            bound = betting_bound(losses, delta) if drop else upper_bound(k, n, delta)
        return SetCertificate(
            name=name,
            limit=self.limit,
            rows=rows,
            without_audio=without_audio,
            n=n,
            k=k,
            observed=float(losses.mean()) if drop else k / n,
            bound=bound,
            needed=clean_drops_needed(self.limit, delta) if drop else questions_needed(0.0, self.limit, delta),
            wanted_observed=float(wanted_losses.mean()) if drop else wanted_k / n,
            wanted_needed=(
                drops_needed(wanted_losses, self.limit, delta)
                if drop
                else questions_needed(wanted_k / n, self.limit, delta)
            ),
        )

    def _seen(self, threshold: float) -> tuple[int, np.ndarray]:
        opened = self.use >= threshold
        return int((opened & self.event).sum()), np.where(opened, self.loss, 0.0)
