"""What holds for every import: splits, seeds, reports, and files that are whole or not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.data.importers import templates
from supervised.data.importers.choice import VARIANTS
from supervised.data.importers.config import DATASETS, ImportConfig
from supervised.data.importers.shares import ANEW, THREE, TWO, our_split
from supervised.data.importers.templates import Labels, other_texts
from supervised.data.sample import SPLITS
from supervised.errors import ConfigError, DataError

HEADER = ["audiocap_id", "youtube_id", "start_time", "caption"]


def write(folder: Any, split: str, numbers: range) -> None:
    folder.csv(f"{split}.csv", [HEADER, *([i, f"clip{i:07d}", 0, f"sound {i}"] for i in numbers)])
    folder.media(*(f"audio/clip{i:07d}_0.wav" for i in numbers))


def test_the_report_and_the_list_of_what_was_left_out_stand_beside_the_manifest(folder: Any) -> None:
    write(folder, "test", range(4))
    (folder.root / "audio" / "clip0000002_0.wav").unlink()
    folder.run("audiocaps", questions="open", on_error="skip")
    report = json.loads((folder.root / "out" / "manifest.report.json").read_text())
    assert report["questions"] == 3
    assert report["splits"] == {"adapter": 0, "train": 0, "validation": 0, "calibration": 0, "test": 3}
    assert report["groups"]["test"] == 3
    assert report["types"] == {"Caption/open": 3}
    assert report["left_out"] == {"sound missing": 1}
    assert report["import"]["dataset"] == "audiocaps"
    (left,) = (json.loads(line) for line in (folder.root / "out" / "manifest.left_out.jsonl").read_text().splitlines())
    assert left["where"].endswith("test.csv, line 4")
    assert left["reason"] == "sound missing"
    assert "'clip0000002_0'" in left["message"]


def test_an_import_that_stops_leaves_the_manifest_as_it_was(folder: Any) -> None:
    write(folder, "test", range(4))
    folder.run("audiocaps")
    out = folder.root / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (folder.root / "audio" / "clip0000003_0.wav").unlink()
    with pytest.raises(DataError, match="clip0000003_0"):
        folder.run("audiocaps")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_dataset_of_which_nothing_can_be_used_writes_nothing(folder: Any) -> None:
    write(folder, "test", range(2))
    for path in (folder.root / "audio").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no question of .* can be used: sound missing \(2\); correct them"):
        folder.run("audiocaps", on_error="skip")
    assert not list((folder.root / "out").iterdir())


def test_chosen_splits_alone_are_read_and_unknown_ones_refused(folder: Any) -> None:
    write(folder, "test", range(2))
    write(folder, "val", range(2, 6))
    write(folder, "train", range(6, 14))
    folder.run("audiocaps", split="val, test", questions="open")
    assert folder.report.own_splits == {"val": 4, "test": 2}
    with pytest.raises(DataError, match="split 'dev' is unknown in this dataset; allowed: train, val, test"):
        folder.run("audiocaps", split="dev")


def test_questions_divided_anew_fall_into_all_five_splits_by_their_shares(folder: Any) -> None:
    write(folder, "test", range(600))
    folder.run("audiocaps", splits="group", questions="open")
    assert {name: folder.report.splits[name] / 600 for name in SPLITS} == pytest.approx(dict(ANEW), abs=0.06)


@pytest.mark.parametrize("shares", [*THREE.values(), *TWO.values(), ANEW])
def test_all_shares_are_of_our_splits_and_sum_to_one(shares: Any) -> None:
    assert set(shares) <= set(SPLITS)
    assert sum(shares.values()) == pytest.approx(1)


@given(st.text(max_size=20), st.integers(0, 5))
def test_any_group_has_one_split_whatever_its_name(group: str, seed: int) -> None:
    assert our_split(group, ANEW, seed) == our_split(group, ANEW, seed)
    assert our_split(group, ANEW, seed) in ANEW


@given(st.lists(st.sampled_from(["dog barking", "dog howling", "rain", "sea waves"]), min_size=1, unique=True))
def test_wrong_labels_are_never_right_ones(right: list[str]) -> None:
    labels = Labels(["dog barking", "dog howling", "rain", "sea waves"])
    wrong = labels.wrong("clip", right, 4, 0)
    words = {word for label in right for word in label.split()}
    assert len(wrong) == len(set(wrong)) == sum(not words & set(label.split()) for label in labels.labels)
    assert all(not words & set(label.split()) for label in wrong)


def test_a_word_of_many_labels_does_not_make_them_alike() -> None:
    names = [f"playing {name}" for name in "abcdefghijk"]
    assert len(Labels(names).wrong("clip", ["playing a"], 3, 0)) == 3
    assert Labels(names[:10]).wrong("clip", ["playing a"], 3, 0) == []


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from(["x", "X", "y", "z"]), min_size=1), min_size=1)
)
def test_wrong_texts_are_those_of_others(texts: dict[str, list[str]]) -> None:
    for clip, own in texts.items():
        found = other_texts(clip, texts, list(texts), 2, 0)
        assert not {text.lower() for text in found} & {text.lower() for text in own}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "musik_avqa"}, "dataset 'musik_avqa' is unknown; allowed: music_avqa, .*did you mean music_avqa"),
        ({"dataset": ""}, "name one of them"),
        ({"root": ""}, "root is empty; give the folder with the annotations with --root"),
        ({"variant": ""}, "variant is empty"),
        ({"negatives": 0}, "negatives must be at least 1, got 0"),
        ({"history": -1}, "history must be at least 0"),
        ({"splits": "mine"}, "splits must be own or group, got mine"),
    ],
)
def test_a_configuration_out_of_range_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImportConfig(**{"dataset": "gqa", "root": "x"} | options)


def test_a_missing_folder_or_an_unknown_variant_is_refused(folder: Any) -> None:
    with pytest.raises(ConfigError, match="media: /nowhere does not exist; give the folder with the media"):
        folder.run("gqa", media="/nowhere")
    with pytest.raises(ConfigError, match="variant 'bias' is unknown; allowed: balanced, all"):
        folder.run("gqa", variant="bias")
    with pytest.raises(ConfigError, match="coco has one edition only"):
        folder.run("coco", variant="2014")


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_says_what_it_looked_for_in_an_empty_folder(folder: Any, dataset: str) -> None:
    with pytest.raises(DataError, match=r"(no annotations|no such folder) under .*; give"):
        folder.run(dataset)
    assert len(DATASETS) == 14
    assert set(VARIANTS) <= set(DATASETS)


@given(content=st.binary(max_size=200))
def test_any_bytes_give_samples_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    from supervised.data.importers.importing import import_dataset

    root: Path = tmp_path_factory.mktemp("bytes")
    for dataset, name in (("music_avqa", "avqa-test.json"), ("audiocaps", "test.csv"), ("vggsound", "vggsound.csv")):
        (root / name).write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(root))):
            import_dataset(ImportConfig(dataset, str(root), str(root / "m.jsonl"), on_error="skip"))


def test_the_documentation_names_every_dataset_variant_and_template() -> None:
    text = (Path(__file__).parents[4] / "docs" / "datasets.md").read_text(encoding="utf-8")
    sentences = [
        sentence for name, value in vars(templates).items() if name.endswith(("_OPEN", "_YES_NO")) for sentence in value
    ]
    assert len(sentences) == 21
    assert [sentence for sentence in sentences if sentence not in text] == []
    assert [name for name in DATASETS if f"| `{name}` |" not in text] == []
    for dataset in DATASETS:
        assert f"python -m safe_rl.import_data {dataset} --root" in text
    for name, share in ANEW.items():
        assert re.search(rf"`{name}`\s{share * 100:.0f} %", text)
