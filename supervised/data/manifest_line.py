"""One line of a manifest: JSON text in, a checked `Sample` out. Errors say what is wrong; the caller knows the line."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from supervised.answers import find_metric
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError

KEYS = tuple(field.name for field in fields(Sample))
REQUIRED = ("id", "question", "answers")
LISTS = ("answers", "choices")
MEDIA = ("image", "audio")
NULLABLE = ("image", "audio", "retention_set", "difficulty", "metric", "choices")


def parse_line(text: str, folder: Path, look: bool = True) -> Sample:
    """Return the sample that a line describes; media paths are relative to `folder`; `look` whether they are there.

    Raises:
        DataError: see `supervised.data.manifest.read_manifest`.
    """
    try:
        row = json.loads(text, object_pairs_hook=_unique)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg}, column {error.colno}); write one JSON object a line.") from None
    except ValueError as error:  # e.g. a number with thousands of digits
        raise DataError(f"not usable JSON ({error}); write one JSON object a line.") from None
    except RecursionError:
        raise DataError("nested too deeply; write one flat JSON object a line.") from None
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, got {type(row).__name__}; write one JSON object a line.")
    for key in row:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "remove it."
            raise DataError(f"unknown key {key!r}; allowed: {', '.join(KEYS)}; {hint}")
    for key in REQUIRED:
        if key not in row:
            raise DataError(f"key {key!r} is missing; required: {', '.join(REQUIRED)}; add it.")
    _check_types(row)
    find = _find if look else _path
    media = {key: find(row[key], key, folder) for key in MEDIA if row.get(key) is not None}
    row = {key: value for key, value in row.items() if value is not None} | media
    texts = {key: tuple(row[key]) for key in LISTS if key in row}
    return Sample(**row | texts | {"group": row.get("group") or row["id"]})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from its pairs; JSON itself would let the last of two equal keys win in silence."""
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [key for key, _ in pairs]
        doubled = next(key for key in names if names.count(key) > 1)
        raise DataError(f"key {doubled!r} stands twice in the object; keep one.")
    return row


def _check_types(row: dict[str, Any]) -> None:
    """Refuse values of the wrong type before a sample is made of them."""
    for key, value in row.items():
        if value is None and key in NULLABLE:
            continue
        if key in LISTS:
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise DataError(f"{key!r} must be a list of strings, got {json.dumps(value)[:80]}; correct it.")
        elif not isinstance(value, str):
            allowed = "a string or null" if key in NULLABLE else "a string"
            raise DataError(f"{key!r} must be {allowed}, got {json.dumps(value)[:80]}; correct it.")
        elif value == "" and key in ("id", *NULLABLE):
            raise DataError(f"{key!r} is an empty string; give a value{' or null' if key in NULLABLE else ''}.")
    if row.get("split", "train") not in SPLITS:
        raise DataError(f"split {row['split']!r} is unknown; allowed: {', '.join(SPLITS)}; correct it.")
    _check_characters(row)
    find_metric(row["answers"], row.get("metric"), row.get("choices") or ())


def _check_characters(row: dict[str, Any]) -> None:
    """Refuse texts that no tokenizer takes; paths may hold such, as file names need not be UTF-8."""
    for key, value in row.items():
        for each in value if key in LISTS and value else [value]:
            if isinstance(each, str) and key not in MEDIA:
                try:
                    each.encode()
                except UnicodeEncodeError:
                    raise DataError(
                        f"{key!r} holds half a character, got {json.dumps(each)[:80]}; correct it."
                    ) from None


def _path(name: str, _: str, folder: Path) -> Path:
    """Return the media file's path without looking for it."""
    return folder / name


def _find(name: str, key: str, folder: Path) -> Path:
    """Return the media file's path, seen from the manifest's folder."""
    path = folder / name
    try:
        found = path.is_file()
    except (OSError, ValueError):  # a name that no file system accepts
        found = False
    if not found:
        raise DataError(f"{key} file {path} does not exist; paths are relative to the manifest, correct it.")
    return path
