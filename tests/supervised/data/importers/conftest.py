"""A folder in which tests write small datasets of the published form, with one-byte files as media."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from supervised.data.importers.config import ImportConfig
from supervised.data.importers.importing import Report, import_dataset
from supervised.data.manifest import read_manifest
from supervised.data.sample import Sample


class Folder:
    """A dataset's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.report = Report()

    def json(self, name: str, content: Any) -> Path:
        path = self._path(name)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def csv(self, name: str, rows: Iterable[Iterable[object]], encoding: str = "utf-8", delimiter: str = ",") -> Path:
        path = self._path(name)
        with open(path, "w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        return path

    def media(self, *names: str) -> None:
        for name in names:
            self._path(name).write_bytes(b"x")

    def run(self, dataset: str, **options: Any) -> dict[str, Sample]:
        """Import the folder and return the samples of the manifest, as its reader gives them, by id."""
        out = self.root / "out" / "manifest.jsonl"
        self.report = import_dataset(ImportConfig(dataset, str(self.root), str(out), **options))
        return {sample.id: sample for sample in read_manifest(out)}

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
