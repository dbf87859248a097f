"""Problems whose best constrained policy is known: means per cell go in; a table, and what a policy is worth, come out.

A question belongs to one of C cells, which its features tell, and to a kind: one of K retention sets, or audio. Scores
are coin tosses with the means of cell and kind. The policy cannot see the kind, so the best one is a probability per
cell and action: the linear program of a constrained Markov decision process of one step (Altman 1999, chapter 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.config import RewardConfig
from envs.outcomes import OutcomeTable
from envs.table_format import TABLE_SPLITS, Header
from envs.table_writer import LATENCY_UNITS_PER_CALL, TableWriter
from supervised.errors import ConfigError

SKIP_MS, USE_MS = 10.0, 10.0
"""Latency of the base, and what the largest budget adds to it, in milliseconds."""


@dataclass(frozen=True)
class KnownProblem:
    """A problem of C cells, K retention sets and A actions.

    Args:
        cell: probability of every cell [C].
        kind: probability of every kind within a cell [C, K + 1]; the last one is audio.
        score: mean score of every action [C, K + 1, A].
    """

    cell: np.ndarray
    kind: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        cells, kinds = np.shape(self.kind)
        if np.shape(self.cell) != (cells,) or np.shape(self.score)[:2] != (cells, kinds):
            raise ConfigError(
                f"cell, kind and score must have shapes [C], [C, K + 1] and [C, K + 1, A], got {np.shape(self.cell)}, "
                f"{np.shape(self.kind)} and {np.shape(self.score)}; give the same C and K to all of them."
            )
        if not (np.isclose(np.sum(self.cell), 1) and np.allclose(np.sum(self.kind, axis=1), 1)):
            raise ConfigError("cell, and kind in every cell, must be probabilities that sum to 1; divide by the sum.")
        if not (self.rates > 0).all():
            raise ConfigError(f"every retention set needs a question in some cell, got {self.rates.tolist()}; drop it.")

    @property
    def n_sets(self) -> int:
        """Number of retention sets K."""
        return self.kind.shape[1] - 1

    @property
    def rates(self) -> np.ndarray:
        """P(retention set k), [K]."""
        return np.asarray(self.cell @ self.kind[:, :-1])

    def reward(self, config: RewardConfig) -> np.ndarray:
        """Return the expected reward of every cell and action, [C, A]."""
        actions = np.arange(self.score.shape[2])
        score = np.einsum("ck,cka->ca", self.kind, self.score)
        irrelevant = self.kind[:, :-1].sum(axis=1)[:, None] * (actions != 0)
        latency = _latency(len(actions)) / _unit(len(actions))
        return np.asarray(score - config.gamma * irrelevant - config.alpha * latency)

    def cost(self) -> np.ndarray:
        """Return the expected cost of every cell, retention set and action, [C, K, A]."""
        loss = self.score[:, :-1, :1] - self.score[:, :-1]  # [C, K, A]
        return np.asarray(self.kind[:, :-1, None] * loss / self.rates[None, :, None])

    def optimum(self, limits: np.ndarray, config: RewardConfig) -> Optimum:
        """Solve for the best policy under a limit per retention set.

        Raises:
            ConfigError: the limits are of the wrong number or cannot be met.
        """
        from scipy.optimize import linprog

        reward, cost = self.reward(config), self.cost()
        limits = np.asarray(limits, dtype=np.float64)
        if limits.shape != (self.n_sets,):
            raise ConfigError(f"limits must be {self.n_sets}, one per set, got {limits.tolist()}; correct them.")
        cells, actions = reward.shape
        weighted = self.cell[:, None, None] * cost  # [C, K, A]
        solution = linprog(
            -(self.cell[:, None] * reward).ravel(),
            A_ub=weighted.transpose(1, 0, 2).reshape(self.n_sets, -1) if self.n_sets else None,
            b_ub=limits if self.n_sets else None,
            A_eq=np.kron(np.eye(cells), np.ones(actions)),
            b_eq=np.ones(cells),
            bounds=(0, 1),
            method="highs",
        )
        if not solution.success or solution.x is None:
            raise ConfigError(f"no policy meets the limits {limits.tolist()} ({solution.message}); raise them.")
        policy = solution.x.reshape(cells, actions)
        prices = -solution.ineqlin.marginals if self.n_sets else np.zeros(0)
        return Optimum(policy, -float(solution.fun or 0.0), float(self.cell @ reward[:, 0]), np.asarray(prices))


@dataclass(frozen=True)
class Optimum:
    """What the best policy does and earns."""

    policy: np.ndarray
    """Probability of every action in every cell, [C, A]."""
    utility: float
    """Its expected reward."""
    never: float
    """Expected reward of never using audio."""
    multiplier: np.ndarray
    """Price of every constraint at the optimum, reward per unit of cost, [K]."""


@dataclass(frozen=True)
class KnownTable:
    """A table drawn from a problem."""

    table: OutcomeTable
    problem: KnownProblem
    cells: np.ndarray
    """Cell of every row, [N]."""

    def judge(self, split: str, probabilities: np.ndarray, config: RewardConfig) -> tuple[float, np.ndarray]:
        """Return the expected reward, and the expected drop per retention set [K], of a policy on the rows of a split.

        Decisions are averaged per cell and weighed by the cells' true probabilities: nothing depends on the scores
        that happened to be drawn. A cell without a row in the split counts with the action SKIP, at its true weight.

        Args:
            split: whose rows were decided on.
            probabilities: of every action, [n, A].
            config: alpha and gamma.
        """
        cells = self.cells[self.table.split(split).rows]
        count = np.bincount(cells, minlength=len(self.problem.cell))
        policy = np.stack([np.bincount(cells, column, len(count)) for column in probabilities.T], axis=1)  # [C, A]
        policy = np.where(count[:, None] > 0, policy / np.maximum(count, 1)[:, None], np.eye(policy.shape[1])[0])
        reward = np.einsum("c,ca,ca->", self.problem.cell, policy, self.problem.reward(config))
        return float(reward), np.einsum("c,ca,cka->k", self.problem.cell, policy, self.problem.cost())


def random_problem(
    seed: int,
    cells: int = 40,
    constraints: int = 1,
    retention: float = 0.5,
    mixed: float = 0.3,
    noise: float = 0.0,
    actions: int = 2,
) -> KnownProblem:
    """Draw a problem.

    Args:
        seed: of the draw.
        cells: number of cells.
        constraints: number of retention sets.
        retention: share of retention questions.
        mixed: share of cells in which retention and audio questions look alike, so that a limit binds.
        noise: 0: mean scores as they are drawn; towards 1: shrunk to one half, so that labels say little.
        actions: 2, or more for several budgets; a larger one hears more and costs more.
    """
    rng = np.random.default_rng(seed)
    cell = rng.dirichlet(np.full(cells, 4.0))
    purely = rng.random(cells) < retention
    share = np.where(rng.random(cells) < mixed, rng.uniform(0.2, 0.8, cells) * 2 * retention, purely)  # of retention
    share = np.clip(share, 0, 1) * (constraints > 0)  # without a set all questions are audio
    sets = rng.dirichlet(np.full(constraints, 0.5), size=cells)  # which sets a cell's retention questions belong to
    kind = np.concatenate([share[:, None] * sets, 1 - share[:, None]], axis=1)
    kind[:constraints] += np.eye(constraints, constraints + 1) * 0.02  # no set is empty
    kind /= kind.sum(axis=1, keepdims=True)
    budget = np.arange(actions) / (actions - 1)
    base = np.concatenate(
        [rng.uniform(0.75, 1.0, (cells, constraints)), rng.uniform(0.1, 0.8, (cells, 1))], axis=1
    )  # [C, K + 1]
    heard = np.concatenate(
        [base[:, :-1] - rng.choice([0.0, 0.05, 0.2], (cells, constraints)), rng.uniform(0.5, 1.0, (cells, 1))], axis=1
    )
    score = base[..., None] + (heard - base)[..., None] * np.sqrt(budget)
    return KnownProblem(cell, kind, 0.5 + (1 - noise) * (np.clip(score, 0, 1) - 0.5))


def write_known_table(
    directory: Path | str,
    problem: KnownProblem,
    rows: dict[str, int],
    seed: int = 0,
    informative: int = 48,
    useless: int = 32,
    spread: float = 0.3,
    rows_per_part: int = 65_536,
) -> KnownTable:
    """Draw questions from a problem and write them as a table.

    Args:
        directory: of the table.
        problem: what to draw from.
        rows: number of rows of every split.
        seed: of the draw.
        informative: columns that tell the cell by a code of +-1, divided among question, audio_preview and confidence.
        useless: columns of `image` that say nothing.
        spread: standard deviation of the noise on the informative columns.
        rows_per_part: rows of one file.
    """
    rng = np.random.default_rng(seed)
    cells, kinds, actions = problem.score.shape
    codes = rng.choice([-1.0, 1.0], size=(cells, informative))
    some = informative // 6
    widths = {"question": informative - 2 * some, "image": useless, "audio_preview": some, "confidence": some}
    heard, sure = widths["question"], widths["question"] + some
    names = ("skip", "use") if actions == 2 else ("skip", *(f"use_{4 * 2**k}" for k in range(actions - 1)))
    writer = TableWriter(directory, Header(names, widths, tuple(f"set-{k}" for k in range(kinds - 1))))
    split = np.repeat([TABLE_SPLITS.index(name) for name in rows], list(rows.values())).astype(np.uint8)
    total, drawn = len(split), []
    for first in range(0, total, rows_per_part):
        n = min(rows_per_part, total - first)
        of_cell = rng.choice(cells, size=n, p=problem.cell)
        of_kind = (rng.random((n, 1)) > problem.kind[of_cell].cumsum(axis=1)[:, :-1]).sum(axis=1)
        told = codes[of_cell] + spread * rng.standard_normal((n, informative))
        tensors: dict[str, np.ndarray] = {
            "question": told[:, :heard],
            "image": rng.standard_normal((n, useless)),
            "audio_preview": told[:, heard:sure],
            "confidence": told[:, sure:],
        }
        tensors = {name: values.astype(np.float16) for name, values in tensors.items()}
        tensors |= {
            "score": (rng.random((n, actions)) < problem.score[of_cell, of_kind]).astype(np.float32),
            "latency_ms": np.broadcast_to(SKIP_MS + _latency(actions), (n, actions)).astype(np.float32),
            "retention_set": np.where(of_kind < kinds - 1, of_kind, -1).astype(np.int16),
            "group": np.arange(first, first + n, dtype=np.int64),
            "split": split[first : first + n],
        }
        records = [
            {"id": f"{first + i}", "question": "", "answers": [], "type": f"cell-{c}", "predictions": []}
            for i, c in enumerate(of_cell)
        ]
        writer.write_part(tensors, records, first + n)
        drawn.append(of_cell)
    writer.finish(_unit(actions))
    return KnownTable(OutcomeTable.open(directory, verify=False), problem, np.concatenate(drawn))


def _latency(actions: int) -> np.ndarray:
    """Return the extra latency of every action, [A], in milliseconds."""
    return np.asarray(USE_MS * np.arange(actions) / (actions - 1))


def _unit(actions: int) -> float:
    return LATENCY_UNITS_PER_CALL * float(_latency(actions)[1:].mean())
