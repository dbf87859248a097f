"""The rows of one part of a table, computed by one process and written into the table by the main one.

Processes that share a build hand their rows over as two hidden files in the table's folder: the tensors, and what else
there is to say, written last. A build that goes on after a kill takes rows that lie there ready, whoever computed them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from envs.mapped import map_tensors
from supervised.files import sha256_file, write_json, write_tensors

PREFIX = ".rows-"


@dataclass
class PartRows:
    """Rows of a range of questions, in their order; questions that were left out have none."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    """The tensors of the format; `retention_set` is an index into `sets`."""
    records: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    """Names of the retention sets, in the order in which they came up."""

    def joined(self, known: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the tensors with `retention_set` as an index into the sets of the whole table, and those sets.

        Args:
            known: the sets of the table so far; new ones come after them.
        """
        names = [*known, *(name for name in self.sets if name not in known)]
        if not self.records:
            return {}, names
        index = np.array([*(names.index(name) for name in self.sets), -1], dtype=np.int16)  # -1 stays -1
        return self.tensors | {"retention_set": index[self.tensors["retention_set"]]}, names

    def save(self, directory: Path, places: range, origin: str) -> None:
        """Hand the rows over to the main process.

        Args:
            directory: the table's folder.
            places: the questions that the rows answer.
            origin: what the rows were computed from; another build does not take them.

        Raises:
            OSError: the disk is full.
        """
        tensors, told = _files(directory, places)
        write_tensors(tensors, self.tensors)
        write_json(
            told,
            {
                "origin": origin,
                "sha256": sha256_file(tensors),
                "records": self.records,
                "left_out": self.left_out,
                "sets": self.sets,
            },
        )

    @classmethod
    def load(cls, directory: Path, places: range, origin: str) -> PartRows | None:
        """Return the rows that lie ready; None: not there, not whole, or of another build."""
        tensors, told = _files(directory, places)
        try:
            value = json.loads(told.read_text(encoding="utf-8"))
            if value["origin"] != origin or sha256_file(tensors) != value["sha256"]:
                return None
            arrays = {name: np.array(array) for name, array in map_tensors(tensors).items()} if value["records"] else {}
            return cls(arrays, value["records"], value["left_out"], value["sets"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def remove_rows(directory: Path, places: range | None = None) -> None:
    """Delete the rows that were handed over for `places`, or all; what counts is in the table."""
    for path in _files(directory, places) if places is not None else directory.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)


def shares(position: int, total: int, count: int, rows: int, window: int) -> list[range]:
    """Return the questions that each process answers next, one range after the other; empty ones at the end.

    Args:
        position: the first question that is not answered yet.
        total: questions in all.
        count: processes.
        rows: rows of a part.
        window: questions that are put into batches together. Ranges end where those of one process would, so that its
            batches, and thus its numbers, are the same.
    """
    if rows % window == 0:
        windows = -(-(total - position) // (window * count))  # the last parts are smaller, so that all have some
        rows = min(rows, windows * window)
    starts = [min(position + i * rows, total) for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def _files(directory: Path, places: range) -> tuple[Path, Path]:
    stem = f"{PREFIX}{places.start:09d}-{places.stop:09d}"
    return directory / f"{stem}.safetensors", directory / f"{stem}.json"
