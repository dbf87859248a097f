"""Manifests: one question per line of JSON, media paths relative to the manifest's folder.

Opening one reads and checks every line and keeps where the lines begin, so that memory does not grow with what stands
in them; a sample is parsed again when it is asked for. Every mistake is a `DataError` that names the file and the line.
Media are only looked up here, not decoded: `supervised.data.media.check_media` does that for one sample.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from supervised.data.facts import Facts, FactsWriter, text_hash
from supervised.data.manifest_line import parse_line
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError
from supervised.files import atomic_path


class Manifest(Sequence[Sample]):
    """The samples of a manifest, or some of them, in its order; each is read from the file when it is asked for.

    `read_manifest` opens one. It can be sent to another process: it holds no open file.
    """

    def __init__(self, lines: _Lines, facts: Facts) -> None:
        self._lines, self.facts = lines, facts

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Manifest: ...

    def __getitem__(self, index: int | slice) -> Sample | Manifest:
        """Return a sample, or the part that a slice tells.

        Raises:
            DataError: the file was changed since it was opened, or a media file is gone.
        """
        if isinstance(index, slice):
            return self.rows(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._lines.sample(index % len(self))

    def __iter__(self) -> Iterator[Sample]:
        return (self._lines.sample(row) for row in range(len(self)))

    def rows(self, places: np.ndarray) -> Manifest:
        """Return the samples at `places`, int64 [m], in that order."""
        return Manifest(self._lines.rows(places), self.facts.rows(places))

    def where(self, row: int) -> str:
        """Return file and line of a row, for messages about its media."""
        return f"{self._lines.path}, line {self._lines.numbers[row]}"

    @property
    def sha256(self) -> str:
        """Identity of the questions and their order: a hash of their lines. Media count by name, not by contents.

        Raises:
            DataError: the file was changed since it was opened.
        """
        digest = hashlib.sha256()
        with self._lines.open() as file:
            for start in self._lines.starts.tolist():
                file.seek(start)
                digest.update(file.readline().strip() + b"\n")
        return digest.hexdigest()

    def split(self, name: str) -> Manifest:
        """Return the samples of one split; there may be none."""
        return self.rows(np.flatnonzero(self.facts.splits == SPLITS.index(name)))


class _Lines:
    """Where the lines of a file begin, and what they say."""

    def __init__(self, path: Path, starts: np.ndarray, numbers: np.ndarray, version: tuple[int, int]) -> None:
        self.path, self.starts, self.numbers, self.version = path, starts, numbers, version

    def rows(self, places: np.ndarray) -> _Lines:
        return _Lines(self.path, self.starts[places], self.numbers[places], self.version)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file, if it still is what it was."""
        try:
            with open(self.path, "rb") as file:
                if _version(file.fileno()) != self.version:
                    raise DataError(f"manifest {self.path} was changed while it was in use; start again.")
                yield file
        except OSError as error:
            raise DataError(f"manifest {self.path} cannot be read ({error.strerror}); restore it.") from None

    def sample(self, row: int) -> Sample:
        with self.open() as file:
            file.seek(int(self.starts[row]))
            raw = file.readline()
        sample = _sample(raw, int(self.numbers[row]), self.path)
        assert sample is not None  # a blank line has no row
        return sample


def read_manifest(path: Path | str, look: bool = True) -> Manifest:
    """Open a JSONL manifest, having checked all of it; blank lines are skipped.

    `id`, `question` and `answers` are required, the other fields of `Sample` have its defaults. A question without a
    `group` is its own cluster.

    Args:
        path: the file.
        look: whether every media file is there; without it, a missing one is found out when its sample is read.

    Raises:
        DataError: the file is missing, empty or not UTF-8; or, with the line's number: not a JSON object, an unknown,
            doubled or missing key, a wrong type, an unknown split or metric, answers that the metric does not take, a
            missing media file, a doubled id, or a group that stands in two splits.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"manifest {path} does not exist or is not a file; give the path of a JSONL file.")
    starts, numbers, ids, facts = array("q"), array("i"), array("Q"), FactsWriter()
    with open(path, "rb") as file:  # bytes: only b"\n" ends a line, and bad UTF-8 is reported with its line
        version, start = _version(file.fileno()), 0
        for number, raw in enumerate(file, start=1):
            sample = _sample(raw, number, path, look)
            if sample is not None:
                starts.append(start)
                numbers.append(number)
                ids.append(text_hash(sample.id))
                facts.add(sample)
            start += len(raw)
    if not starts:
        raise DataError(f"manifest {path} holds no question; write one JSON object a line.")
    lines = _Lines(path, np.array(starts, dtype=np.int64), np.array(numbers, dtype=np.int32), version)
    manifest = Manifest(lines, facts.finish())
    _check_ids(manifest, np.array(ids, dtype=np.uint64), lines)
    _check_groups(manifest, lines)
    return manifest


def write_manifest(path: Path | str, samples: Iterable[Sample]) -> None:
    """Write the samples as JSONL, whole or not at all, with media paths relative to the manifest's folder.

    Raises:
        DataError: a sample's media are in memory; a manifest can only name files.
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            row = {field.name: getattr(sample, field.name) for field in fields(Sample)}
            row |= {"answers": list(sample.answers), "choices": list(sample.choices)}
            for name in ("image", "audio"):
                media = row[name]
                if isinstance(media, Path):
                    row[name] = Path(os.path.relpath(media, path.parent)).as_posix()
                elif media is not None:
                    raise DataError(
                        f"sample {sample.id!r} has its {name} in memory; write it to a file, then give the path."
                    )
            for name in ("metric", "choices"):
                if not row[name]:
                    del row[name]
            file.write(json.dumps(row) + "\n")  # ASCII: any character of a question or a path survives


def _sample(raw: bytes, number: int, path: Path, look: bool = True) -> Sample | None:
    """Return what line `number` of the file says, None for a blank one; errors name file and line."""
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        return parse_line(text, path.parent, look) if text else None
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number}: not UTF-8; save the manifest as UTF-8.") from None
    except DataError as error:
        raise DataError(f"{path}, line {number}: {error}") from None


def _check_ids(manifest: Manifest, ids: np.ndarray, lines: _Lines) -> None:
    """Refuse an id that stands twice; equal hashes (uint64 [n]) are compared as texts."""
    order = np.argsort(ids, kind="stable")
    for place in np.sort(order[1:][ids[order[1:]] == ids[order[:-1]]]).tolist():
        name = manifest[place].id
        earlier = [row for row in np.flatnonzero(ids[:place] == ids[place]).tolist() if manifest[row].id == name]
        if earlier:
            raise DataError(
                f"{lines.path}, line {lines.numbers[place]}: id {name!r} stands in line {lines.numbers[earlier[0]]} "
                "already; ids must differ, rename one."
            )


def _check_groups(manifest: Manifest, lines: _Lines) -> None:
    """Refuse a group that stands in two splits."""
    groups, splits = manifest.facts.groups, manifest.facts.splits
    order = np.argsort(groups, kind="stable")
    changes = (groups[order[1:]] == groups[order[:-1]]) & (splits[order[1:]] != splits[order[:-1]])
    for place in np.sort(order[1:][changes]).tolist():
        here = manifest[place]
        same = np.flatnonzero(groups[:place] == groups[place]).tolist()
        earlier = [row for row in same if manifest[row].group == here.group]
        if earlier and manifest[earlier[0]].split != here.split:
            raise DataError(
                f"{lines.path}, line {lines.numbers[place]}: group {here.group!r} is in split {here.split!r} here and "
                f"in {manifest[earlier[0]].split!r} in line {lines.numbers[earlier[0]]}; a group belongs to one split, "
                "move one."
            )


def _version(descriptor: int) -> tuple[int, int]:
    """Return size and time of change of an open file."""
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns
