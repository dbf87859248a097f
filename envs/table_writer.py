"""Writing outcome tables (format v1), part by part; table.json is written last and lists only whole parts.

A build that was killed goes on where it stood: what table.json lists is done, what it does not list is written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.mapped import map_tensors
from envs.table_checks import check_part
from envs.table_format import COLUMNS, HEADER, TABLE_SPLITS, Header, Part, first_difference, read_header
from supervised.errors import TableError
from supervised.files import sha256_file, write_json, write_tensors, write_text

LATENCY_UNITS_PER_CALL = 4.0
"""An average audio call costs alpha / 4."""


class TableWriter:
    """A table under construction.

    Args:
        directory: The folder; made when missing. A table that lies there unfinished is continued.
        header: What table.json shall say: actions, features, retention sets and the provenance known in advance.

    Raises:
        TableError: the folder holds the table of another build, naming the first difference.
    """

    def __init__(self, directory: Path | str, header: Header) -> None:
        self.directory = Path(directory)
        if (self.directory / HEADER).exists():
            found = read_header(self.directory)
            self._refuse_another(found, header)
            self.header = found
            self._remove_remains()
        else:
            self.header = replace(header, parts=(), latency_unit_ms=None, position=0)
            self._save()

    @property
    def finished(self) -> bool:
        """Whether the table was finished before; then there is nothing left to write."""
        return self.header.latency_unit_ms is not None

    @property
    def position(self) -> int:
        """Samples consumed so far, those left out included: where a build has to go on."""
        return self.header.position

    def write_part(
        self,
        tensors: Mapping[str, np.ndarray],
        records: Sequence[Mapping[str, Any]],
        position: int,
        provenance: Mapping[str, Any] | None = None,
        retention_sets: Sequence[str] | None = None,
    ) -> None:
        """Add rows as one whole part; from then on they are safe.

        Args:
            tensors: The tensors of the format; features of width 0 may be left out. No rows: only `position` moves.
            records: One mapping a row: id, question, answers, type, predictions.
            position: Samples consumed once this part is written.
            provenance: Entries that changed (say, the samples left out).
            retention_sets: The names met so far, where they are not known in advance: the old ones, then new ones.

        Raises:
            TableError: a tensor has a wrong name, type, shape or value; the part is then not listed.
            OSError: the disk is full; what was listed before stays.
        """
        if self.finished:
            raise TableError(f"the table in {self.directory} is finished; write into another folder.")
        if retention_sets is not None:
            if tuple(retention_sets[: len(self.header.retention_sets)]) != self.header.retention_sets:
                raise TableError(
                    f"retention sets can only be added, got {list(retention_sets)} after "
                    f"{list(self.header.retention_sets)}; keep the old ones first."
                )
            self.header = replace(self.header, retention_sets=tuple(retention_sets))
        parts = self.header.parts
        if records:
            parts = (*parts, self._write_files(tensors, records))
        self.header = replace(
            self.header, parts=parts, position=position, provenance={**self.header.provenance, **(provenance or {})}
        )
        self._save()

    def finish(self, latency_unit_ms: float | None = None, provenance: Mapping[str, Any] | None = None) -> None:
        """Declare the table whole.

        Args:
            latency_unit_ms: None: four times the mean extra latency of using audio on the train split.
            provenance: Entries known only now.

        Raises:
            TableError: there are no rows.
        """
        if self.finished:
            return
        if not self.header.parts:
            raise TableError(f"the table in {self.directory} has no rows; build it from at least one question.")
        unit = self._default_unit() if latency_unit_ms is None else float(latency_unit_ms)
        self.header = replace(
            self.header, latency_unit_ms=unit, provenance={**self.header.provenance, **(provenance or {})}
        )
        self._save()

    def _write_files(self, tensors: Mapping[str, np.ndarray], records: Sequence[Mapping[str, Any]]) -> Part:
        name = f"part-{len(self.header.parts):05d}.safetensors"
        path = self.directory / name
        arrays = {key: np.asarray(value) for key, value in tensors.items() if self.header.widths.get(key, 1)}
        known = {*COLUMNS, *self.header.widths}
        if set(arrays) - known:
            raise TableError(f"unknown tensors {sorted(set(arrays) - known)}; allowed: {', '.join(sorted(known))}.")
        check_part(path, arrays, Part(name, len(records), ""), self.header, values=True)
        lines = path.with_suffix(".jsonl")
        write_text(lines, "".join(json.dumps(dict(record), ensure_ascii=False) + "\n" for record in records))
        write_tensors(path, arrays)
        return Part(name, len(records), sha256_file(path), sha256_file(lines))

    def _default_unit(self) -> float:
        """Return four times the mean extra latency of using audio, on the train split (on all rows if it is empty).

        Where audio takes no time at all, any unit is right; it is then the mean latency of SKIP.
        """
        columns = [map_tensors(self.directory / part.file) for part in self.header.parts]
        latency = np.concatenate([part["latency_ms"] for part in columns]).astype(np.float64)  # [n, A]
        train = np.concatenate([part["split"] for part in columns]) == TABLE_SPLITS.index("train")
        rows = latency[train] if train.any() else latency
        extra = float((rows[:, 1:] - rows[:, :1]).mean())
        if extra > 0:
            return LATENCY_UNITS_PER_CALL * extra
        return float(rows[:, 0].mean()) or 1.0

    def _refuse_another(self, found: Header, header: Header) -> None:
        """Compare what was known in advance; entries that the build itself added do not count."""
        described = {"actions": found.actions, "features": found.widths}
        wanted = {"actions": header.actions, "features": header.widths}
        provenance = {key: found.provenance.get(key) for key in header.provenance}
        # The provenance comes first: it says why the rest differs.
        difference = first_difference(header.provenance, provenance) or first_difference(wanted, described)
        if difference:
            raise TableError(
                f"{self.directory} holds the table of another build: {difference}; "
                "build into another folder, or delete this one."
            )

    def _remove_remains(self) -> None:
        """Delete temporary files of a writer that was killed; nobody else writes into this folder."""
        for pattern in (".part-*", f".{HEADER}.*"):
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)

    def _save(self) -> None:
        write_json(self.directory / HEADER, self.header.as_json())
