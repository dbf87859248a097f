"""Format v1 of the outcome table: its header (table.json), its names and types. No tensor is read here.

A table is a folder: table.json, and for every part a safetensors file and a jsonl file with one line a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervised.differences import differences
from supervised.errors import TableError

FORMAT = "safe-rl-outcomes"
VERSION = 1
HEADER = "table.json"
FEATURES = ("question", "image", "audio_preview", "confidence")
TABLE_SPLITS = ("train", "validation", "calibration", "test")
"""In the order of their codes in the `split` tensor."""
COLUMNS = {"score": "float32", "latency_ms": "float32", "retention_set": "int16", "group": "int64", "split": "uint8"}
FEATURE_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Part:
    """One whole part, as table.json lists it."""

    file: str
    rows: int
    sha256: str
    records_sha256: str | None = None
    """Checksum of the jsonl file; our own builds write it, the format does not ask for it."""


@dataclass(frozen=True)
class Header:
    """The contents of table.json."""

    actions: tuple[str, ...]
    features: dict[str, int]
    """Width of every feature; 0: absent."""
    retention_sets: tuple[str, ...] = ()
    latency_unit_ms: float | None = None
    """None while the build is under way."""
    provenance: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    action_tokens: tuple[int, ...] | None = None
    """Audio tokens of every action, where the builder knew them."""
    position: int = 0
    """Samples consumed so far by an unfinished build (those left out included)."""

    def __post_init__(self) -> None:
        if len(self.actions) < 2 or len(set(self.actions)) != len(self.actions):
            raise TableError(f"a table needs two or more different actions, got {list(self.actions)}; name each once.")
        unknown = set(self.features) - set(FEATURES)
        if unknown or any(not isinstance(width, int) or width < 0 for width in self.features.values()):
            raise TableError(
                f"features must map some of {', '.join(FEATURES)} to widths >= 0, got {self.features}; "
                "correct table.json."
            )
        if not any(self.features.values()):
            raise TableError(
                f"all features have width 0, so nothing is left to decide by; give one of {', '.join(FEATURES)}."
            )
        if len(set(self.retention_sets)) != len(self.retention_sets):
            raise TableError(f"retention_sets has a name twice: {list(self.retention_sets)}; name each set once.")
        unit = self.latency_unit_ms
        if unit is not None and not (isinstance(unit, (int, float)) and math.isfinite(unit) and unit > 0):
            raise TableError(f"latency_unit_ms must be a finite number > 0, got {unit!r}; correct table.json.")
        if self.action_tokens is not None and len(self.action_tokens) != len(self.actions):
            raise TableError(
                f"action_tokens needs one number per action ({len(self.actions)}), got {len(self.action_tokens)}; "
                "correct table.json."
            )

    @property
    def widths(self) -> dict[str, int]:
        """Width of each of the four features, in their fixed order, absent ones as 0."""
        return {name: self.features.get(name, 0) for name in FEATURES}

    def as_json(self) -> dict[str, Any]:
        """Return the value that table.json holds."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "actions": list(self.actions),
            "features": self.widths,
            "retention_sets": list(self.retention_sets),
            "latency_unit_ms": self.latency_unit_ms,
            "provenance": self.provenance,
            "parts": [{name: value for name, value in vars(part).items() if value is not None} for part in self.parts],
        }
        if self.action_tokens is not None:
            value["action_tokens"] = list(self.action_tokens)
        if self.latency_unit_ms is None:
            value["position"] = self.position
        return value


def read_header(directory: Path) -> Header:
    """Read and check table.json.

    Raises:
        TableError: the folder is missing, is not a table, is of another version, or its header is damaged.
    """
    path = directory / HEADER
    if not directory.is_dir():
        raise TableError(f"no outcome table at {directory}: the folder does not exist; build one, or correct the path.")
    if not path.is_file():
        raise TableError(f"{directory} is not an outcome table: it has no {HEADER}; build one, or correct the path.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise TableError(f"{path} is not readable JSON ({reason}); restore the file or build again.") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        given = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise TableError(f"{path} has format {given!r}, allowed is {FORMAT!r}; give the folder of an outcome table.")
    if value.get("version") != VERSION:
        raise TableError(f"{path} has version {value.get('version')!r}, this program reads {VERSION}; build again.")
    try:
        return _parse(value)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"{path} is damaged ({type(error).__name__}: {error}); restore it or build again.") from error


def _parse(value: Mapping[str, Any]) -> Header:
    """Turn the JSON value into a Header; wrong types raise TypeError, ValueError or KeyError."""
    tokens = value.get("action_tokens")
    return Header(
        actions=tuple(str(name) for name in _list(value["actions"])),
        features={str(name): width for name, width in dict(value["features"]).items()},
        retention_sets=tuple(str(name) for name in _list(value["retention_sets"])),
        latency_unit_ms=value["latency_unit_ms"],
        provenance=dict(value.get("provenance") or {}),
        parts=tuple(_part(entry) for entry in _list(value["parts"])),
        action_tokens=None if tokens is None else tuple(int(number) for number in _list(tokens)),
        position=int(value.get("position", 0)),
    )


def _part(entry: Mapping[str, Any]) -> Part:
    """Check one entry of `parts`; a file name must stay inside the folder of the table."""
    part = Part(str(entry["file"]), entry["rows"], str(entry["sha256"]), entry.get("records_sha256"))
    if not isinstance(part.rows, int) or part.rows < 1:
        raise TableError(f"part {part.file!r} has rows {part.rows!r}, allowed is a whole number >= 1; build again.")
    if Path(part.file).name != part.file or not part.file.endswith(".safetensors"):
        raise TableError(f"part {part.file!r} must be the plain name of a .safetensors file; build again.")
    return part


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, got {type(value).__name__}")
    return value


_ABSENT = object()


def first_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return one line on the first place where two JSON values differ, or None when they are equal."""
    wanted, present = (json.loads(json.dumps(value)) for value in (expected, found))  # tuples become lists
    for name, here, there in differences(wanted, present, absent=_ABSENT):
        if here is _ABSENT or there is _ABSENT:
            return f"{name} is only in the {'table' if here is _ABSENT else 'present run'}"
        return f"{name} is {there!r} in the table and {here!r} in the present run"
    return None
