"""Checks of one part of a table: names, types and shapes always, values only where asked (that reads the file)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.mapped import Tensors
from envs.table_format import COLUMNS, FEATURE_DTYPES, TABLE_SPLITS, Header, Part
from supervised.errors import TableError
from supervised.files import sha256_file

_ROWS_AT_ONCE = 4096


def check_part(path: Path, tensors: Tensors, part: Part, header: Header, values: bool) -> None:
    """Check the tensors of a part against the header of its table.

    Raises:
        TableError: naming the file, the tensor and what is allowed.
    """
    shapes = {name: (part.rows, width) for name, width in header.widths.items() if width}
    shapes |= {name: (part.rows, len(header.actions)) for name in ("score", "latency_ms")}
    expected: dict[str, tuple[int, ...]] = {**shapes, **{name: (part.rows,) for name in list(COLUMNS)[2:]}}
    for name, shape in expected.items():
        if name not in tensors:
            raise TableError(f"{path} has no tensor {name!r}; restore it or build the table again.")
        allowed = (COLUMNS[name],) if name in COLUMNS else FEATURE_DTYPES
        found = tensors[name]
        if found.shape != shape:
            raise TableError(f"{path}: {name} has shape {list(found.shape)}, allowed is {list(shape)}; build again.")
        if found.dtype.name not in allowed:
            raise TableError(f"{path}: {name} is {found.dtype.name}, allowed is {' or '.join(allowed)}; build again.")
    if values:
        for first in range(0, part.rows, _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            _check_values(path, {name: tensors[name][rows] for name in expected}, header)


def _check_values(path: Path, rows: dict[str, np.ndarray], header: Header) -> None:
    for name, array in rows.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TableError(
                f"{path}: {name} holds NaN or infinity, allowed are finite numbers; build the table again."
            )
    score = rows["score"]
    if score.min() < 0 or score.max() > 1:
        wrong = float(score.min() if score.min() < 0 else score.max())
        raise TableError(f"{path}: score holds {wrong:g}, allowed is [0, 1]; scale the scores and build again.")
    if rows["latency_ms"].min() < 0:
        raise TableError(f"{path}: latency_ms holds a negative number, allowed is >= 0; build the table again.")
    sets = rows["retention_set"]
    if sets.min() < -1 or sets.max() >= len(header.retention_sets):
        raise TableError(
            f"{path}: retention_set holds {int(sets.max() if sets.min() >= -1 else sets.min())}, allowed is -1 to "
            f"{len(header.retention_sets) - 1}; correct retention_sets or build again."
        )
    if rows["split"].max() >= len(TABLE_SPLITS):
        raise TableError(f"{path}: split holds {int(rows['split'].max())}, allowed is 0 to 3; build the table again.")


def check_records(path: Path, part: Part) -> None:
    """Check the jsonl file of a part: it may be absent only where no checksum of it was written.

    Raises:
        TableError: the file is missing, has a wrong checksum, or has not one line a row.
    """
    if not path.is_file():
        if part.records_sha256 is None:
            return
        raise TableError(f"{path} is missing; restore it or build the table again.")
    if part.records_sha256 is not None and sha256_file(path) != part.records_sha256:
        raise TableError(f"{path} has a wrong checksum (not {part.records_sha256[:12]}...); restore it or build again.")
    with open(path, "rb") as file:
        lines = sum(1 for line in file)
    if lines != part.rows:
        raise TableError(f"{path} has {lines} lines for {part.rows} rows; restore it or build the table again.")


def parse_record(line: bytes, actions: Sequence[str]) -> dict[str, Any]:
    """Return the values of one line of a jsonl file; tables made elsewhere may have put anything there.

    `predictions` (or `prediction`) is a list in the order of the actions or an object by their names; it may be absent.

    Raises:
        TableError: not a JSON object, or predictions of another form; the message does not name the line yet.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise TableError(f"not readable JSON ({reason}); restore the file or build the table again.") from error
    if not isinstance(record, dict):
        raise TableError(f"a JSON object is expected, got {type(record).__name__}; correct the line.")
    record = {name: value for name, value in record.items() if value is not None}
    if "prediction" in record and "predictions" not in record:
        record["predictions"] = record.pop("prediction")
    predictions = record.get("predictions", [])
    if isinstance(predictions, dict) and predictions.keys() == set(actions):
        predictions = record["predictions"] = [predictions[name] for name in actions]
    if not isinstance(predictions, list) or len(predictions) not in (0, len(actions)):
        raise TableError(
            f"predictions must be a list of {len(actions)}, one for each of {', '.join(actions)}, or absent, got "
            f"{json.dumps(predictions)[:80]}; correct the line."
        )
    return record
