"""Safetensors files without reading them whole: memory-mapped arrays, or tensors whose rows are read when asked for.

`safetensors.safe_open` copies a tensor when it is read; tables of millions of rows must not be read to be used. Every
page of a mapping that was touched counts as memory of the process, and the system maps many around the one that was
asked for: scattered rows of a large file soon have all of it resident. Reading them leaves nothing behind.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from supervised.errors import TableError

_DTYPES = {"F16": "<f2", "F32": "<f4", "I16": "<i2", "I64": "<i8", "U8": "|u1"}
_LARGEST_HEADER = 1 << 20
_GAP_BYTES = 4096
"""Rows that lie closer than this are read in one go: skipping costs more than reading."""
_SCANNED_BYTES = 4 << 20
_ROWS_AT_ONCE = 4096
"""Rows of one round of reads, which with their gaps stay below some tens of megabytes."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose rows lie in one file or in several; `tensor[rows]` reads a slice or row numbers >= 0."""

    paths: tuple[Path, ...]
    starts: np.ndarray
    """Where the tensor begins in every file, int64 [P], in bytes."""
    edges: np.ndarray
    """First row of every file, and the number of all rows, int64 [P + 1]."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def joined(cls, parts: Sequence[StoredTensor]) -> StoredTensor:
        """Return the rows of all parts, one after another, as one tensor."""
        edges = np.cumsum([0, *(part.shape[0] for part in parts)])
        paths, starts = sum((part.paths for part in parts), ()), np.concatenate([part.starts for part in parts])
        return cls(paths, starts, edges, parts[0].dtype, (int(edges[-1]), *parts[0].shape[1:]))

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def __getitem__(self, indices: Any) -> np.ndarray:
        """Return some rows [m, ...] as a fresh array, in the order asked for.

        Raises:
            TableError: a file is shorter than it was.
            OSError: a file cannot be read any more.
        """
        rows = np.arange(*indices.indices(self.shape[0])) if isinstance(indices, slice) else np.asarray(indices)
        order = np.argsort(rows, kind="stable")
        result = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            at = order[first : first + _ROWS_AT_ONCE]
            result[at] = self._read(rows[at])
        return result

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Return ascending rows [m, ...] by one read for each run of rows that lie close together."""
        part = np.searchsorted(self.edges, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) * self.row_bytes > _GAP_BYTES) | (np.diff(part) > 0)) + 1
        begins, ends = np.append(0, breaks), np.append(breaks, len(rows))  # of every run, in `rows`
        first, lengths = rows[begins], rows[ends - 1] - rows[begins] + 1
        numbers = part[begins]
        offsets = self.starts[numbers] + (first - self.edges[numbers]) * self.row_bytes
        runs = zip(numbers.tolist(), offsets.tolist(), (lengths * self.row_bytes).tolist(), strict=True)
        pieces: list[bytes] = []
        for number, reads in groupby(runs, key=itemgetter(0)):
            with _opened(self.paths[number]) as file:
                pieces += [os.pread(file, count, offset) for _, offset, count in reads]
        joined = b"".join(pieces)
        if len(joined) != int(lengths.sum()) * self.row_bytes:
            raise TableError(f"a file of {self.paths[0].parent} became shorter; restore it or build the table again.")
        skipped = np.repeat(first - np.cumsum(lengths) + lengths, ends - begins)
        return np.frombuffer(joined, self.dtype).reshape(-1, *self.shape[1:])[rows - skipped]


Tensors = Mapping[str, np.ndarray | StoredTensor]


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a safetensors file as a read-only view of the mapped file.

    Raises:
        TableError: the file is missing, truncated, or not of the types that a table holds.
    """
    data = _map(path)
    return {name: _view(data, tensor) for name, tensor in _tensors(path, data).items()}


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a safetensors file, to be read by rows.

    Raises:
        TableError: the file is missing, truncated, or not of the types that a table holds.
    """
    return _tensors(path, _map(path))


def _view(data: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    start = int(tensor.starts[0])
    return data[start : start + tensor.row_bytes * tensor.shape[0]].view(tensor.dtype).reshape(tensor.shape)


def _map(path: Path) -> np.ndarray:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read ({error}); restore the file or build the table again.") from error


def _tensors(path: Path, data: np.ndarray) -> dict[str, StoredTensor]:
    header, start = _header(path, data)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {name: _tensor(path, name, entry, len(data), start) for name, entry in entries.items()}


def _header(path: Path, data: np.ndarray) -> tuple[dict[str, Any], int]:
    length = int(data[:8].view("<u8")[0]) if len(data) >= 8 else _LARGEST_HEADER + 1
    if length > min(_LARGEST_HEADER, len(data) - 8):
        raise TableError(f"{path} is truncated or not a safetensors file; restore it or build the table again.")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} has a damaged header; restore it or build the table again.") from error
    if not isinstance(header, dict):
        raise TableError(f"{path} has a damaged header; restore it or build the table again.")
    return header, 8 + length


def _tensor(path: Path, name: str, entry: Any, size: int, start: int) -> StoredTensor:
    try:
        code, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"{path} has a damaged entry for {name!r}; restore it or build the table again.") from error
    if code not in _DTYPES:
        raise TableError(f"{path} holds {name!r} as {code}, allowed are {', '.join(_DTYPES)}; convert it.")
    dtype = np.dtype(_DTYPES[code])
    if min(shape, default=-1) < 0 or not 0 <= first <= last or last - first != math.prod(shape) * dtype.itemsize:
        raise TableError(f"{path} has a damaged entry for {name!r}; restore it or build the table again.")
    if start + last > size:
        raise TableError(f"{path} is truncated inside {name!r}; restore it or build the table again.")
    return StoredTensor((path.absolute(),), np.array([start + first]), np.array([0, shape[0]]), dtype, shape)


def line_edges(path: Path) -> np.ndarray:
    """Return where the n lines of a text file begin and end, int64 [n + 1], in bytes."""
    edges, position = [np.zeros(1, dtype=np.int64)], 0
    with open(path, "rb") as file:
        while piece := file.read(_SCANNED_BYTES):
            edges.append(np.flatnonzero(np.frombuffer(piece, dtype=np.uint8) == ord("\n")) + 1 + position)
            position += len(piece)
    return np.unique(np.concatenate([*edges, [position]]))  # the last line may lack its end


def read_bytes(path: Path, start: int, count: int) -> bytes:
    """Return some bytes of a file."""
    with _opened(path) as file:
        return os.pread(file, count, start)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file for reads without a buffer: rows and lines are asked for one by one."""
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)
