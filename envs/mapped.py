"""Safetensors files as memory-mapped NumPy arrays: the header is parsed here, no byte of a tensor is copied.

`safetensors.safe_open` copies a tensor when it is read; tables of millions of rows must not be read to be used.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from supervised.errors import TableError

_DTYPES = {"F16": "<f2", "F32": "<f4", "I16": "<i2", "I64": "<i8", "U8": "|u1"}
_LARGEST_HEADER = 1 << 20


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a safetensors file as a read-only view of the mapped file.

    Raises:
        TableError: the file is missing, truncated, or not of the types that a table holds.
    """
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read ({error}); restore the file or build the table again.") from error
    header, start = _header(path, data)
    return {name: _tensor(path, name, entry, data, start) for name, entry in header.items() if name != "__metadata__"}


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


def _tensor(path: Path, name: str, entry: Any, data: np.ndarray, start: int) -> np.ndarray:
    try:
        code, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"{path} has a damaged entry for {name!r}; restore it or build the table again.") from error
    if code not in _DTYPES:
        raise TableError(f"{path} holds {name!r} as {code}, allowed are {', '.join(_DTYPES)}; convert it.")
    dtype = np.dtype(_DTYPES[code])
    if min(shape, default=0) < 0 or not 0 <= first <= last or last - first != math.prod(shape) * dtype.itemsize:
        raise TableError(f"{path} has a damaged entry for {name!r}; restore it or build the table again.")
    if start + last > len(data):
        raise TableError(f"{path} is truncated inside {name!r}; restore it or build the table again.")
    return data[start + first : start + last].view(dtype).reshape(shape)
