"""Reading outcome tables (format v1): features by row, small columns, and the jsonl rows on demand.

Files are memory-mapped; those of a table that is too large to become resident are read by rows instead.

table = OutcomeTable.open("runs/demo/table")
train = table.split("train")
train.features["question"][[3, 1]]    # float32 [2, D], a fresh array, gathered over all parts
train.score, train.latency_ms         # float32 [n, A]
train.record(3)["predictions"]        # the jsonl row, read when it is asked for
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from envs.mapped import StoredTensor, line_edges, map_tensors, read_bytes, stored_tensors
from envs.table_checks import check_part, check_records, parse_record
from envs.table_format import FEATURES, HEADER, TABLE_SPLITS, Header, first_difference, read_header
from envs.table_writer import TableWriter
from supervised.errors import TableError
from supervised.files import sha256_file

__all__ = ["FeatureColumn", "OutcomeTable", "TableSplit", "TableWriter"]

_MAPPED_BYTES = 256 << 20
"""Tables up to this size are gathered from their mapping, all of which may become resident memory."""


class OutcomeTable:
    """An opened table; nothing but its header and its split codes is in memory."""

    def __init__(self, directory: Path, header: Header, parts: list[dict[str, np.ndarray]]) -> None:
        self.directory = directory
        self.header = header
        self.parts = parts
        self.offsets = np.cumsum([0, *(part.rows for part in header.parts)])  # [P + 1]

    @classmethod
    def open(cls, directory: Path | str, verify: bool = True) -> OutcomeTable:
        """Open a finished table.

        Args:
            directory: The folder of the table.
            verify: Also read every part once: checksums, finite features, scores in [0, 1], codes in range.
                Names, types, shapes and file sizes are checked in any case.

        Raises:
            TableError: the table is missing, unfinished, empty, damaged or of another version.
        """
        directory = Path(directory)
        header = read_header(directory)
        if header.latency_unit_ms is None:
            raise TableError(
                f"the table in {directory} is unfinished ({sum(part.rows for part in header.parts)} rows so far); "
                "run the build again, it goes on where it stood."
            )
        if not header.parts:
            raise TableError(f"the table in {directory} has no rows; build it from at least one question.")
        parts = []
        for part in header.parts:
            path = directory / part.file
            if not path.is_file():
                raise TableError(f"{path} is missing, but {HEADER} lists it; restore it or build the table again.")
            if verify and sha256_file(path) != part.sha256:
                raise TableError(f"{path} has a wrong checksum (not {part.sha256[:12]}...); restore it or build again.")
            if verify:
                check_records(path.with_suffix(".jsonl"), part)
                check_part(path, stored_tensors(path), part, header, values=True)
            tensors = map_tensors(path)
            check_part(path, tensors, part, header, values=False)
            parts.append(tensors)
        return cls(directory, header, parts)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions, in the order of the columns of `score`."""
        return self.header.actions

    @property
    def widths(self) -> dict[str, int]:
        """Width of each of the four features; 0: absent."""
        return self.header.widths

    @property
    def retention_sets(self) -> tuple[str, ...]:
        """Names of the K retention sets."""
        return self.header.retention_sets

    @property
    def latency_unit_ms(self) -> float:
        """Extra latency that costs alpha accuracy points."""
        assert self.header.latency_unit_ms is not None  # refused by `open`
        return float(self.header.latency_unit_ms)

    @property
    def action_tokens(self) -> tuple[int, ...] | None:
        """Audio tokens of every action, or None where the table does not tell."""
        return self.header.action_tokens

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the table comes from: model, data, configuration, what was measured while it was built."""
        return self.header.provenance

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of table.json, which holds the checksum of every part: it names this very table."""
        return hashlib.sha256((self.directory / HEADER).read_bytes()).hexdigest()

    def require(self, provenance: Mapping[str, Any]) -> None:
        """Refuse the table unless it comes from what `provenance` says (only the keys given are compared).

        Raises:
            TableError: naming the first difference.
        """
        for name, expected in provenance.items():
            difference = first_difference({name: expected}, {name: self.provenance.get(name)})
            if difference:
                raise TableError(
                    f"the table in {self.directory} comes from another build: {difference}; "
                    "build into another folder, or delete this one."
                )

    @cached_property
    def _split_codes(self) -> np.ndarray:
        return self.gather("split", np.arange(len(self)))  # [N]

    @cached_property
    def _stored(self) -> dict[str, StoredTensor] | None:
        """The tensors over all parts, to be read by rows; None: the table is small enough for its mapping."""
        paths = [self.directory / part.file for part in self.header.parts]
        if sum(path.stat().st_size for path in paths) <= _MAPPED_BYTES:
            return None
        parts = [stored_tensors(path) for path in paths]
        return {name: StoredTensor.joined([part[name] for part in parts]) for name in self.parts[0]}

    @property
    def splits(self) -> dict[str, int]:
        """Number of rows of every split."""
        return {name: int((self._split_codes == code).sum()) for code, name in enumerate(TABLE_SPLITS)}

    def shared_group(self) -> tuple[int, str, str] | None:
        """Return a group that has rows in two splits, and these splits; None: every group lies in one split only."""
        group = self.gather("group", np.arange(len(self)))  # [N]
        order = np.lexsort((self._split_codes, group))
        group, split = group[order], self._split_codes[order]
        found = np.flatnonzero((group[1:] == group[:-1]) & (split[1:] != split[:-1]))
        if len(found) == 0:
            return None
        first, second = (TABLE_SPLITS[split[row]] for row in (found[0], found[0] + 1))
        return int(group[found[0]]), first, second

    def split(self, name: str) -> TableSplit:
        """Return the rows of one split.

        Raises:
            TableError: the split is unknown or empty.
        """
        if name not in TABLE_SPLITS:
            raise TableError(f"split {name!r} is unknown; allowed: {', '.join(TABLE_SPLITS)}.")
        rows = np.flatnonzero(self._split_codes == TABLE_SPLITS.index(name))
        if len(rows) == 0:
            full = ", ".join(f"{split} {count}" for split, count in self.splits.items() if count)
            raise TableError(f"split {name!r} of {self.directory} is empty (rows: {full}); choose another split.")
        return TableSplit(self, name, rows)

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the rows [m] of a tensor as a fresh array [m, ...], in the order asked for."""
        rows = np.asarray(rows, dtype=np.int64)
        if self._stored is not None:
            return self._stored[name][rows]
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][name][rows])
        first = self.parts[0][name]
        result = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        order = np.argsort(rows, kind="stable")
        edges = np.searchsorted(rows[order], self.offsets)  # rows of part p lie in order[edges[p] : edges[p + 1]]
        for number in np.flatnonzero(np.diff(edges)):
            at = order[edges[number] : edges[number + 1]]
            result[at] = self.parts[number][name][rows[at] - self.offsets[number]]
        return result

    def record(self, row: int) -> dict[str, Any]:
        """Return the jsonl line of a row: id, question, answers, type, predictions (defaults where it has none).

        Raises:
            TableError: the line is not a JSON object, or its predictions are not one per action.
        """
        number = int(np.searchsorted(self.offsets, row, side="right")) - 1
        lines = self._record_lines(number)
        value: dict[str, Any] = {"id": f"row-{row}", "question": "", "answers": [], "type": "", "predictions": []}
        if lines is None:
            return value
        path, edges = lines
        first = row - self.offsets[number]
        start, end = edges[first : first + 2].tolist()
        try:
            return value | parse_record(read_bytes(path, start, end - start), self.actions)
        except TableError as error:
            raise TableError(f"{path}, line {first + 1}: {error}") from error

    def _record_lines(self, number: int) -> tuple[Path, np.ndarray] | None:
        """Return a part's jsonl file, and where its lines begin and end; None when the table has none."""
        if number not in self._lines:
            part = self.header.parts[number]
            path = (self.directory / part.file).with_suffix(".jsonl").absolute()
            if not path.is_file() and part.records_sha256 is None:
                self._lines[number] = None  # a table made elsewhere, without its rows in words
                return None
            check_records(path, part)
            self._lines[number] = path, line_edges(path)
        return self._lines[number]

    @cached_property
    def _lines(self) -> dict[int, tuple[Path, np.ndarray] | None]:
        return {}


class FeatureColumn:
    """One feature of a split, lazily: `column[indices]` gathers float32 rows, `np.asarray(column)` reads all."""

    def __init__(self, table: OutcomeTable, name: str, rows: np.ndarray) -> None:
        self.table, self.name, self.rows = table, name, rows
        self.shape = (len(rows), table.widths[name])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Any) -> np.ndarray:
        """Return float32 [m, D] for a slice or an array of indices, float32 [D] for one index."""
        rows = np.atleast_1d(self.rows[indices])
        if self.shape[1] == 0:
            values = np.zeros((len(rows), 0), dtype=np.float32)
        else:
            values = self.table.gather(self.name, rows).astype(np.float32, copy=False)
        return values[0] if np.ndim(self.rows[indices]) == 0 else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype)


class TableSplit:
    """The rows of one split: features lazily, the small columns in memory, the jsonl rows when asked for."""

    def __init__(self, table: OutcomeTable, name: str, rows: np.ndarray) -> None:
        self.table, self.name, self.rows = table, name, rows
        self.features = {feature: FeatureColumn(table, feature, rows) for feature in FEATURES}

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, count: int) -> TableSplit:
        """Return at most `count` of its rows, always the same, in their order; itself where it has no more."""
        if len(self) <= count:
            return self
        chosen = np.random.default_rng(0).choice(len(self), count, replace=False)
        return TableSplit(self.table, self.name, self.rows[np.sort(chosen)])

    @cached_property
    def score(self) -> np.ndarray:
        """Task score of every action, float32 [n, A], in [0, 1]."""
        return self.table.gather("score", self.rows)

    @cached_property
    def latency_ms(self) -> np.ndarray:
        """End-to-end latency of every action, float32 [n, A]."""
        return self.table.gather("latency_ms", self.rows)

    @cached_property
    def retention_set(self) -> np.ndarray:
        """Index of the retention set, or -1; int16 [n]."""
        return self.table.gather("retention_set", self.rows)

    @cached_property
    def group(self) -> np.ndarray:
        """Cluster id, int64 [n]: statistics resample groups, not rows."""
        return self.table.gather("group", self.rows)

    def observation(self, indices: Any) -> dict[str, np.ndarray]:
        """Return the features that the table has, float32 [m, D] each, not normalised."""
        return {name: column[indices] for name, column in self.features.items() if column.shape[1]}

    def record(self, index: int) -> dict[str, Any]:
        """Return id, question, answers, type and predictions of one row."""
        return self.table.record(int(self.rows[index]))

    def records(self, indices: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records of some rows, or of all, in order."""
        for index in range(len(self)) if indices is None else indices:
            yield self.record(index)

    @cached_property
    def types(self) -> np.ndarray:
        """Question type of every row, str [n]."""
        return np.array([record["type"] for record in self.records()], dtype=str)

    @cached_property
    def ids(self) -> np.ndarray:
        """Id of every row, str [n]."""
        return np.array([record["id"] for record in self.records()], dtype=str)
