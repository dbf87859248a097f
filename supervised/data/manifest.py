"""Manifests: one question per line of JSON, media paths relative to the manifest's folder.

Every mistake is a `DataError` that names the file and the line. Media are only looked up here, not decoded:
`supervised.data.media.check_media` does that for one sample.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError
from supervised.files import write_text

KEYS = tuple(field.name for field in fields(Sample))
REQUIRED = ("id", "question", "answers")
ANSWER_COUNTS = (1, 10)
"""One accepted answer, or the ten of VQAv2: the two forms that have a metric."""


def read_manifest(path: Path | str) -> list[Sample]:
    """Return the samples of a JSONL manifest in its order; blank lines are skipped.

    `id`, `question` and `answers` are required, the other fields of `Sample` have its defaults. A question without a
    `group` is its own cluster.

    Raises:
        DataError: the file is missing, empty or not UTF-8; or, with the line's number: not a JSON object, an unknown,
            doubled or missing key, a wrong type, an unknown split, a missing media file, a doubled id, or a group that
            stands in two splits.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"manifest {path} does not exist or is not a file; give the path of a JSONL file.")
    samples: list[Sample] = []
    lines_of: dict[str, int] = {}
    split_of: dict[str, tuple[str, int]] = {}
    with open(path, "rb") as file:  # bytes: only b"\n" ends a line, and bad UTF-8 is reported with its line
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                sample = _parse(text, path.parent)
                first = lines_of.setdefault(sample.id, number)
                if first != number:
                    raise DataError(f"id {sample.id!r} stands in line {first} already; ids must differ, rename one.")
                split, first = split_of.setdefault(sample.group, (sample.split, number))
                if split != sample.split:
                    raise DataError(
                        f"group {sample.group!r} is in split {sample.split!r} here and in {split!r} in line {first}; "
                        "a group belongs to one split, move one."
                    )
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {number}: not UTF-8; save the manifest as UTF-8.") from None
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            samples.append(sample)
    if not samples:
        raise DataError(f"manifest {path} holds no question; write one JSON object a line.")
    return samples


def write_manifest(path: Path | str, samples: Iterable[Sample]) -> None:
    """Write the samples as JSONL, whole or not at all, with media paths relative to the manifest's folder.

    Raises:
        DataError: a sample's media are in memory; a manifest can only name files.
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    lines = []
    for sample in samples:
        row = {name: getattr(sample, name) for name in KEYS} | {"answers": list(sample.answers)}
        for name in ("image", "audio"):
            media = row[name]
            if isinstance(media, Path):
                row[name] = Path(os.path.relpath(media, path.parent)).as_posix()
            elif media is not None:
                raise DataError(
                    f"sample {sample.id!r} has its {name} in memory; write it to a file, then give the path."
                )
        lines.append(json.dumps(row) + "\n")  # ASCII: any character of a question or a path survives
    write_text(path, "".join(lines))


def _parse(text: str, folder: Path) -> Sample:
    """Return the sample that one line describes; errors do not name the line yet."""
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
    media = {key: _find(row[key], key, folder) for key in ("image", "audio") if row.get(key) is not None}
    row = {key: value for key, value in row.items() if value is not None} | media
    return Sample(**row | {"answers": tuple(row["answers"]), "group": row.get("group") or row["id"]})


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
    nullable = ("image", "audio", "retention_set", "difficulty")
    for key, value in row.items():
        if key == "answers":
            texts = isinstance(value, list) and all(isinstance(answer, str) for answer in value)
            if not texts or len(value) not in ANSWER_COUNTS:
                given = f"{len(value)} of them" if texts else json.dumps(value)[:80]
                raise DataError(f"'answers' must be a list of one string, or of ten, got {given}; correct it.")
        elif not isinstance(value, str) and not (value is None and key in nullable):
            allowed = "a string or null" if key in nullable else "a string"
            raise DataError(f"{key!r} must be {allowed}, got {json.dumps(value)[:80]}; correct it.")
        elif value == "" and key in ("id", *nullable):
            raise DataError(f"{key!r} is an empty string; give a value{' or null' if key in nullable else ''}.")
    if row.get("split", "train") not in SPLITS:
        raise DataError(f"split {row['split']!r} is unknown; allowed: {', '.join(SPLITS)}; correct it.")


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
