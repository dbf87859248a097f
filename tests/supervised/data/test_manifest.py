from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from supervised.data import facts
from supervised.data import manifest as manifest_module
from supervised.data.manifest import Manifest, read_manifest, write_manifest
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError

ROW = {"id": "q1", "question": "which sound?", "answers": ["dog"], "audio": "clips/1.wav"}
ROW |= {"group": "g", "split": "test"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("clips/1.wav", "frames/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_row_becomes_a_sample_with_paths_seen_from_the_manifest(folder: Path) -> None:
    full = ROW | {"image": "frames/1.png", "retention_set": "vqav2", "type": "Audio/Counting", "difficulty": "easy"}
    assert list(read_manifest(write(folder, full))) == [
        Sample(
            "q1",
            "which sound?",
            ("dog",),
            folder / "frames/1.png",
            folder / "clips/1.wav",
            "vqav2",
            "Audio/Counting",
            "g",
            "easy",
            "test",
        )
    ]


def test_only_three_keys_are_required_and_a_question_without_group_is_its_own_cluster(folder: Path) -> None:
    rows = [{"id": name, "question": "?", "answers": ["a"], "image": None} for name in ("q1", "q2")]
    samples = read_manifest(write(folder, rows[0], "", rows[1]))
    assert [(s.id, s.group, s.split, s.image, s.audio) for s in samples] == [
        ("q1", "q1", "train", None, None),
        ("q2", "q2", "train", None, None),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"audoi": "x"}, r"unknown key 'audoi'; allowed: id, question, .*; did you mean 'audio'\?"),
        (ROW | {"zzz": 1}, "unknown key 'zzz'; allowed: .*; remove it"),
        (
            ROW | {"question": "what \ud83d ?"},
            r"'question' holds half a character, got \"what \\ud83d \?\"; correct it",
        ),
        (ROW | {"answers": ["\udcff"]}, r"'answers' holds half a character, got \"\\udcff\"; correct it"),
        ({"id": "q", "answers": ["a"]}, "key 'question' is missing; required: id, question, answers; add it"),
        (ROW | {"id": 5}, "'id' must be a string, got 5; correct it"),
        (ROW | {"id": ""}, "'id' is an empty string; give a value"),
        (ROW | {"question": " "}, "sample 'q1' needs a question and at least one answer"),
        (ROW | {"question": None}, "'question' must be a string, got null"),
        (ROW | {"answers": "dog"}, "'answers' must be a list of strings, got \"dog\""),
        (ROW | {"answers": ["a", 2]}, r"'answers' must be a list of strings, got \[\"a\", 2\]"),
        (ROW | {"answers": ["a"] * 3}, "a score takes 1 accepted answer or 10, .*, got 3; correct the answers"),
        (ROW | {"answers": []}, "a score takes 1 accepted answer or 10, .*, got 0; correct the answers"),
        (ROW | {"audio": ["a.wav"]}, "'audio' must be a string or null, got .*; correct it"),
        (ROW | {"audio": ""}, "'audio' is an empty string; give a value or null"),
        (ROW | {"audio": "clips/2.wav"}, r"audio file .*clips/2\.wav does not exist; paths are relative"),
        (ROW | {"image": "clips"}, "image file .*clips does not exist"),
        (ROW | {"audio": "a\0b"}, "audio file .* does not exist"),
        (ROW | {"split": "dev"}, "split 'dev' is unknown; allowed: adapter, train, validation, calibration, test"),
        (ROW | {"metric": "gqq"}, "metric 'gqq' is unknown; allowed: exact, gqa, vqa, choice, bleu, or null"),
        (ROW | {"metric": "vqa"}, "metric 'vqa' takes 10, got 1"),
        (ROW | {"choices": "cat"}, "'choices' must be a list of strings, got \"cat\""),
        (ROW | {"choices": ["cat"]}, r"answer 'dog' is not among the options \['cat'\]"),
        ([1, 2], "expected a JSON object, got list"),
        ('{"id": "q1"', r"not valid JSON \(.*column 12\)"),
        ('{"id": ' + "1" * 5_000 + "}", r"not usable JSON \(.*\); write one"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "q1", "id": "q2"}', "key 'id' stands twice in the object; keep one"),
        (ROW, "id 'q1' stands in line 1 already; ids must differ"),
        (ROW | {"id": "q2", "split": "train"}, "group 'g' is in split 'train' here and in 'test' in line 1"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_line(folder: Path, row: Any, message: str) -> None:
    path = write(folder, ROW, "", row)
    with pytest.raises(DataError, match=r"manifest\.jsonl, line 3: " + message) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused_and_a_byte_order_mark_is_not(folder: Path) -> None:
    path = folder / "manifest.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode())
    assert len(read_manifest(path)) == 1
    path.write_bytes(json.dumps(ROW).encode() + b"\n\xff\n")
    with pytest.raises(DataError, match="line 2: not UTF-8; save the manifest as UTF-8"):
        read_manifest(path)


def test_a_missing_or_empty_manifest_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl does not exist or is not a file"):
        read_manifest(folder / "none.jsonl")
    with pytest.raises(DataError, match=r"manifest\.jsonl holds no question; write one JSON object a line"):
        read_manifest(write(folder, ""))


def test_a_written_manifest_names_media_relative_to_itself(folder: Path) -> None:
    (folder / "lists").mkdir()
    write_manifest(folder / "lists" / "m.jsonl", [Sample("q", "?", ("a",), audio=folder / "clips/1.wav", group="g")])
    assert json.loads((folder / "lists/m.jsonl").read_text())["audio"] == "../clips/1.wav"
    assert read_manifest(folder / "lists" / "m.jsonl")[0].audio == folder / "lists/../clips/1.wav"


def test_media_in_memory_cannot_be_written_and_nothing_is_left_behind(folder: Path) -> None:
    sample = Sample("q", "?", ("a",), image=Image.new("RGB", (2, 2)))
    with pytest.raises(DataError, match="sample 'q' has its image in memory; write it to a file"):
        write_manifest(folder / "m.jsonl", [sample])
    assert not (folder / "m.jsonl").exists()


def test_a_metric_and_options_are_read_and_written_where_there_are_any(folder: Path) -> None:
    rows = [
        ROW | {"metric": None, "choices": None},
        ROW | {"id": "q2", "choices": ["cat", "dog"]},
        ROW | {"id": "q3", "metric": "bleu", "answers": ["a", "b", "c"]},
    ]
    samples = read_manifest(write(folder, *rows))
    assert [(s.metric, s.choices) for s in samples] == [(None, ()), (None, ("cat", "dog")), ("bleu", ())]
    write_manifest(folder / "m.jsonl", samples)
    written = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    assert ["choices" in row for row in written] == [False, True, False]
    assert list(read_manifest(folder / "m.jsonl")) == list(samples)


def many(folder: Path, count: int = 40) -> Manifest:
    splits = ["train", "test", "adapter"]
    rows = [
        {"id": f"set{i % 2}-{i}", "question": f"q{i}?", "answers": ["a"], "group": f"g{i // 2}"}
        | {"split": splits[i // 2 % 3], "retention_set": "vl" if i % 4 == 0 else None}
        | ({"audio": "clips/1.wav"} if i % 5 else {})
        for i in range(count)
    ]
    return read_manifest(write(folder, *rows))


def test_parts_of_a_manifest_are_manifests_with_the_same_samples(folder: Path) -> None:
    manifest = many(folder)
    samples = list(manifest)
    assert (len(manifest), manifest[-1], manifest[3]) == (40, samples[-1], samples[3])
    assert list(manifest[5:30:3]) == samples[5:30:3]
    assert [list(manifest.split(name)) for name in SPLITS] == [
        [s for s in samples if s.split == name] for name in SPLITS
    ]
    assert manifest.split("test")[1] == [s for s in samples if s.split == "test"][1]
    assert list(manifest.split("adapter").rows(np.array([4, 0]))) == [samples[i] for i in (10 + 6, 4)]
    with pytest.raises(IndexError, match="row 40 of 40"):
        manifest[40]


def test_a_manifest_can_be_sent_to_another_process(folder: Path) -> None:
    manifest = many(folder).split("train")
    assert list(pickle.loads(pickle.dumps(manifest))) == list(manifest)


def test_a_file_that_changes_while_it_is_used_is_refused(folder: Path) -> None:
    manifest = many(folder)
    with open(folder / "manifest.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"manifest\.jsonl was changed while it was in use; start again"):
        manifest[0]
    (folder / "manifest.jsonl").unlink()
    with pytest.raises(DataError, match=r"manifest\.jsonl cannot be read \(No such file"):
        manifest[0]


def test_media_that_vanish_are_named_with_their_line(folder: Path) -> None:
    manifest = many(folder)
    (folder / "clips/1.wav").unlink()
    with pytest.raises(DataError, match=r"manifest\.jsonl, line 2: audio file .*clips/1\.wav does not exist"):
        manifest[1]


def test_the_first_doubled_id_is_named_whatever_stands_between(folder: Path) -> None:
    rows = [{"id": f"q{i}", "question": "?", "answers": ["a"]} for i in range(50)]
    for line, doubled in ((30, 4), (41, 11)):
        rows[line - 1] = rows[doubled - 1]
    with pytest.raises(DataError, match=r"line 30: id 'q3' stands in line 4 already; ids must differ"):
        read_manifest(write(folder, *rows))


def test_equal_hashes_of_different_ids_are_not_taken_for_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "text_hash", lambda text: 7)
    monkeypatch.setattr(facts, "text_hash", lambda text: 7)
    assert len(many(folder)) == 40


def test_a_group_in_two_splits_is_named_with_its_first_line(folder: Path) -> None:
    rows = [{"id": f"q{i}", "question": "?", "answers": ["a"], "group": "gh"[i % 2]} for i in range(9)]
    rows[6]["split"] = "test"
    with pytest.raises(DataError, match=r"line 7: group 'g' is in split 'test' here and in 'train' in line 1; a group"):
        read_manifest(write(folder, *rows))


TEXT = st.text(min_size=1, max_size=12)
SAMPLES = st.builds(
    Sample,
    id=TEXT,
    question=TEXT.filter(str.strip),
    answers=st.sampled_from([1, 10]).flatmap(lambda n: st.lists(TEXT, min_size=n, max_size=n).map(tuple)),
    retention_set=st.none() | TEXT,
    type=st.text(max_size=12),
    group=TEXT,
    difficulty=st.none() | TEXT,
    split=st.sampled_from(SPLITS),
)


@settings(max_examples=50, deadline=None)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=5, unique_by=(lambda s: s.id, lambda s: s.group)))
def test_what_is_written_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    write_manifest(path, samples)
    assert list(read_manifest(path)) == samples


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f'{{"id": {text}}}'.encode()))
def test_any_bytes_give_samples_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        read_manifest(path)
