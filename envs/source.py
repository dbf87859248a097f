"""Where an environment takes questions and outcomes from: a table, or a model that is asked on demand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from envs.outcomes import OutcomeTable, TableSplit
from envs.reward import retention_rates

SAMPLE_TABLE = Path(__file__).parent / "sample_table"
"""The small table that ships with the package."""


class Outcome(NamedTuple):
    """What one action on one question gives."""

    score: float
    latency_ms: float
    prediction: str


@dataclass(frozen=True)
class DecisionProblem:
    """What the questions of a source have in common."""

    actions: tuple[str, ...]
    widths: dict[str, int]
    """Features that are present, with their widths."""
    retention_sets: tuple[str, ...]
    rates: np.ndarray
    """P(retention_set == k) over the questions of the source, float64 [K]."""
    latency_unit_ms: float
    action_tokens: tuple[int, ...] | None = None


class OutcomeSource(Protocol):
    """Questions with their features and outcomes; everything an environment needs to know."""

    problem: DecisionProblem

    def __len__(self) -> int: ...

    def observation(self, index: int) -> dict[str, np.ndarray]:
        """Features of a question, float32 [D] each, not normalised."""

    def outcome(self, index: int, action: int) -> Outcome:
        """Score, latency and answer of one action."""

    def retention_set(self, index: int) -> int:
        """Index of the question's retention set, or -1."""

    def record(self, index: int) -> dict[str, Any]:
        """Id, question, answers and type."""


class TableSource:
    """The questions of one split of a table."""

    def __init__(self, split: TableSplit) -> None:
        self.split = split
        self.problem = problem_of(split)

    def __len__(self) -> int:
        return len(self.split)

    def observation(self, index: int) -> dict[str, np.ndarray]:
        """Return the features of a question."""
        return self.split.observation(index)

    def outcome(self, index: int, action: int) -> Outcome:
        """Return what the table says about one action."""
        predictions = self.split.record(index)["predictions"]
        return Outcome(
            float(self.split.score[index, action]),
            float(self.split.latency_ms[index, action]),
            str(predictions[action]) if action < len(predictions) else "",
        )

    def retention_set(self, index: int) -> int:
        """Return the index of the question's retention set, or -1."""
        return int(self.split.retention_set[index])

    def record(self, index: int) -> dict[str, Any]:
        """Return the jsonl row."""
        return self.split.record(index)


def problem_of(split: TableSplit) -> DecisionProblem:
    """Return what the questions of a split have in common."""
    table = split.table
    return DecisionProblem(
        table.actions,
        {name: width for name, width in table.widths.items() if width},
        table.retention_sets,
        retention_rates(split.retention_set, len(table.retention_sets)),
        table.latency_unit_ms,
        table.action_tokens,
    )


def open_split(table: OutcomeTable | Path | str | None, name: str) -> TableSplit:
    """Return a split of an opened table, of a folder, or of the table that ships (None)."""
    if not isinstance(table, OutcomeTable):
        table = OutcomeTable.open(SAMPLE_TABLE if table is None else table)
    return table.split(name)
