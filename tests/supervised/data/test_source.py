from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervised.config import DataConfig
from supervised.data import source
from supervised.data.manifest import read_manifest
from supervised.data.source import open_split
from supervised.errors import ConfigError, DataError


@pytest.fixture
def manifest(tmp_path: Path) -> DataConfig:
    rows = [
        {"id": f"q{i}", "question": "?", "answers": ["a"], "split": split}
        for i, split in enumerate(("train", "test", "train"))
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DataConfig(manifest=str(tmp_path / "m.jsonl"))


def test_a_manifests_split_holds_its_rows_in_order(manifest: DataConfig) -> None:
    assert [sample.id for sample in open_split(manifest, "train")] == ["q0", "q2"]


def test_an_empty_split_is_refused_with_those_that_have_questions(manifest: DataConfig) -> None:
    with pytest.raises(DataError, match="has no question in split 'adapter'; available: train, test; give some"):
        open_split(manifest, "adapter")


def test_a_seed_that_no_generator_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.seed must not be below 0, got -1"):
        DataConfig(seed=-1)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="split 'dev' is unknown; allowed: adapter, train, validation"):
        open_split(DataConfig(), "dev")


def test_without_a_manifest_soundscenes_is_generated() -> None:
    samples = open_split(DataConfig(adapter=4), "adapter")
    assert len(samples) == 4
    assert [samples[i].split for i in range(4)] == ["adapter"] * 4


def test_a_manifest_is_read_once_for_all_its_splits_and_again_when_it_changed(
    manifest: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(source, "read_manifest", lambda path: opened.append(path) or read_manifest(path))
    open_split(manifest, "train")
    open_split(manifest, "test")
    assert len(opened) == 1
    with open(str(manifest.manifest), "a") as file:
        file.write("\n" + json.dumps({"id": "q3", "question": "?", "answers": ["a"]}))
    assert [sample.id for sample in open_split(manifest, "train")] == ["q0", "q2", "q3"]
    assert len(opened) == 2


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        open_split(DataConfig(manifest=str(tmp_path / "none.jsonl")), "train")
