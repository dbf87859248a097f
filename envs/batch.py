"""One split of a table, ready to be gathered a batch at a time: normalised features, reward and cost matrices.

Both vector faces (gymnasium and stable-baselines3) and the retention buffer read from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from envs.actions import Action
from envs.config import RewardConfig
from envs.normaliser import ObservationNormaliser
from envs.outcomes import TableSplit
from envs.reward import RewardTerms, cost_matrix, token_cost
from envs.source import problem_of
from supervised.errors import CheckpointError

_CACHE_BYTES = 128 << 20
_ROWS_AT_ONCE = 4096


class OutcomeBatches:
    """Gathers observations, rewards and costs by row of a split.

    Features that fit into `keep_bytes` are normalised once and kept side by side; larger tables are read from disk
    batch by batch. Those of `like`, which are of the same split and normaliser, are shared.
    """

    def __init__(
        self,
        split: TableSplit,
        config: RewardConfig,
        normaliser: ObservationNormaliser | None = None,
        keep_bytes: int = _CACHE_BYTES,
        like: OutcomeBatches | None = None,
    ) -> None:
        self.split = split
        self.problem = problem_of(split)
        self.normaliser = normaliser or ObservationNormaliser.fit(split.table.split("train"))
        self.config = config
        self.terms = RewardTerms(
            split.score,
            split.latency_ms,
            split.retention_set,
            self.problem.latency_unit_ms,
            config,
            self.problem.action_tokens,
        )
        self.tokens = token_cost(config, self.problem.action_tokens, len(self.problem.actions))  # [A]
        self._reward: np.ndarray | None = None
        fits = len(split) * sum(self.problem.widths.values()) * 4 <= keep_bytes
        kept = None if like is None else like._side_by_side
        self._side_by_side: np.ndarray | None = self._normalised() if fits and kept is None else kept  # [n, D]
        self._kept = None if self._side_by_side is None else self._by_name(self._side_by_side)

    def __len__(self) -> int:
        return len(self.split)

    def _normalised(self) -> np.ndarray:
        """Return all features side by side, float32 [n, D], normalised piece by piece: temporaries stay small."""
        kept = np.empty((len(self), sum(self.problem.widths.values())), dtype=np.float32)
        columns = self._by_name(kept)
        for first in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            for name, values in self.normaliser(self.split.observation(rows)).items():
                columns[name][rows] = values
        return kept

    def _by_name(self, side_by_side: np.ndarray) -> dict[str, np.ndarray]:
        """Return views of the features, float32 [n, D] each, in the order of the table."""
        ends = np.cumsum(list(self.problem.widths.values()))
        return dict(zip(self.problem.widths, np.split(side_by_side, ends[:-1], axis=1), strict=True))

    @property
    def reward(self) -> np.ndarray:
        """Reward of every action on every row, float32 [n, A]."""
        if self._reward is None:  # only who looks at all rows pays for all of them
            self._reward = self.terms.matrix(self.config.alpha)
        return self._reward

    @cached_property
    def cost(self) -> np.ndarray:
        """Cost of every action on every row, float32 [n, K, A]."""
        return cost_matrix(self.split.score, self.split.retention_set, self.problem.rates)

    def set_alpha(self, alpha: float) -> None:
        """Set another price of latency."""
        self.config = replace(self.config, alpha=alpha)
        self._reward = None

    def observe(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the normalised features of some rows, float32 [m, D] each, fresh arrays."""
        if self._kept is None:
            return self.normaliser(self.split.observation(rows))
        return {name: values[rows] for name, values in self._kept.items()}

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the normalised features of some rows side by side, float32 [m, D], a fresh array."""
        if self._side_by_side is not None:
            return self._side_by_side.take(rows, axis=0)
        return np.concatenate(list(self.observe(rows).values()), axis=1)

    def facts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return score [m, A], whether it is a retention question [m], and cost [m, K, A] of some rows, float32."""
        score, members = self.split.score[rows], self.split.retention_set[rows]
        return score, (members >= 0).astype(np.float32), cost_matrix(score, members, self.problem.rates)

    def matrices(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return reward float32 [m, A] and cost float32 [m, K, A] of every action on some rows."""
        return self.priced(rows, np.float32(self.config.alpha), np.float32(self.config.gamma))

    def priced(
        self, rows: np.ndarray, alpha: np.ndarray | np.float32, gamma: np.ndarray | np.float32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same at other prices, float32: one for all rows, or [m, 1] of each."""
        score, irrelevant, cost = self.facts(rows)
        used = np.arange(score.shape[1]) != Action.SKIP
        free = score - gamma * irrelevant[:, None] * used - self.tokens
        return free - alpha * self.terms.extra_latency[rows], cost

    def outcome(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return reward float32 [m] and cost float32 [m, K] of one action per row."""
        reward, cost = self.matrices(rows)
        taken = np.arange(len(rows))
        return reward[taken, actions], cost[taken, :, actions]


class RowSampler:
    """Rows in shuffled epochs without replacement; its state is JSON and goes on to the row."""

    def __init__(self, rows: int, seed: int | Sequence[int] | None = None) -> None:
        self.rows = rows
        self.seed(seed)

    def seed(self, seed: int | Sequence[int] | None) -> None:
        """Begin a new sequence of epochs."""
        self.generator = np.random.default_rng(seed)
        self._shuffle()

    def draw(self, count: int) -> np.ndarray:
        """Return the next rows, int64 [count]; an epoch that ends is followed by the next."""
        drawn = []
        while count > 0:
            if self._cursor == self.rows:
                self._shuffle()
            piece = self._order[self._cursor : self._cursor + count]
            self._cursor += len(piece)
            count -= len(piece)
            drawn.append(piece)
        return np.concatenate(drawn) if drawn else np.zeros(0, dtype=np.int64)

    def get_state(self) -> dict[str, Any]:
        """Return the generator before this epoch's shuffle, and the place within the epoch."""
        return {"generator": self._before, "cursor": self._cursor}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` was called.

        Raises:
            CheckpointError: the place lies outside an epoch of so many rows.
        """
        if not 0 <= int(state["cursor"]) <= self.rows:  # beyond its end an epoch would never end
            raise CheckpointError(
                f"the environment's state is at row {state['cursor']} of an epoch of {self.rows}; resume with the "
                "table of the run."
            )
        self.generator.bit_generator.state = state["generator"]
        self._shuffle()
        self._cursor = int(state["cursor"])

    def _shuffle(self) -> None:
        self._before = self.generator.bit_generator.state
        self._order = self.generator.permutation(self.rows)
        self._cursor = 0
