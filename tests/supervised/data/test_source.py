from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervised.config import DataConfig, PreprocessConfig
from supervised.data import source
from supervised.data.manifest import read_manifest
from supervised.data.sample import SPLITS
from supervised.data.source import manifest_of, open_split
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
    monkeypatch.setattr(source, "read_manifest", lambda path, look: opened.append(path) or read_manifest(path, look))
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


@pytest.fixture
def grouped(tmp_path: Path) -> DataConfig:
    """60 groups of two questions: one needs audio, one does not; in adapter, train, validation and test."""
    splits = ("adapter", "adapter", "train", "validation", "test")
    with open(tmp_path / "m.jsonl", "w") as file:
        for i in range(120):
            row = {"id": f"q{i}", "question": "?", "answers": ["a"], "group": f"g{i // 2}", "split": splits[i // 2 % 5]}
            file.write(json.dumps(row | {"retention_set": "gqa" if i % 2 else None}) + "\n")
    return DataConfig(manifest=str(tmp_path / "m.jsonl"))


def test_held_out_questions_leave_what_is_trained_on_and_join_validation(grouped: DataConfig) -> None:
    held = replace(grouped, hold_out=10)
    before, after = ({name: list(open_split(config, name)) for name in SPLITS[:3]} for config in (grouped, held))
    joined = [sample for sample in after["validation"] if sample not in before["validation"]]
    assert len(joined) == 10
    assert {sample.split for sample in joined} == {"adapter", "train"}
    assert all(sample.retention_set for sample in joined)
    assert [sample for sample in after["validation"] if sample not in joined] == before["validation"]
    groups = {sample.group for sample in joined}
    for name in ("adapter", "train"):
        assert [sample for sample in before[name] if sample.group not in groups] == after[name]
    assert list(open_split(held, "test")) == list(open_split(grouped, "test"))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 11), seed=st.integers(0, 9))
def test_no_group_is_trained_on_and_validated_on(grouped: DataConfig, count: int, seed: int) -> None:
    config = replace(grouped, hold_out=count, seed=seed)
    groups = {name: {sample.group for sample in open_split(config, name)} for name in SPLITS if name != "calibration"}
    names = list(groups)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert not groups[name] & groups[other]


def test_more_than_there_is_cannot_be_held_out(grouped: DataConfig) -> None:
    with pytest.raises(
        DataError, match=r"data\.hold_out, splits adapter and train of .*m\.jsonl: 99 .* there are 36; ask"
    ):
        open_split(replace(grouped, hold_out=99), "adapter")
    with pytest.raises(ConfigError, match=r"data\.hold_out must not be below 0, got -1"):
        DataConfig(hold_out=-1)
    with pytest.raises(ConfigError, match=r"data\.on_error must be stop or skip, got go_on"):
        DataConfig(on_error="go_on")  # type: ignore[arg-type]


def test_holding_out_leaves_soundscenes_as_it_is() -> None:
    assert [sample.id for sample in open_split(DataConfig(adapter=2, hold_out=5), "adapter")] == [
        "scenes-adapter-000000",
        "scenes-adapter-000001",
    ]


def test_the_manifest_behind_samples_is_found(grouped: DataConfig) -> None:
    split = open_split(grouped, "adapter")
    assert manifest_of(split) is split
    peak = replace(grouped, preprocess=PreprocessConfig(peak=True))
    assert manifest_of(open_split(peak, "adapter")) is not None
    assert manifest_of(open_split(DataConfig(adapter=2), "adapter")) is None
