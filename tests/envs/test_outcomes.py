"""Reading tables: memory-mapped gathers, tables made elsewhere, and every kind of damage as one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.outcomes import OutcomeTable
from supervised.errors import TableError
from supervised.files import sha256_file, write_tensors


def foreign_table(folder: Path, rows: int = 5, actions: int = 2, changes: dict[str, np.ndarray] | None = None) -> Path:
    """Write a table by the letter of the format, with nothing but NumPy and JSON."""
    folder.mkdir(exist_ok=True)
    plain: dict[str, np.ndarray] = {
        "question": np.arange(rows * 3, dtype=np.float16).reshape(rows, 3),
        "score": np.full((rows, actions), 0.5, dtype=np.float32),
        "latency_ms": np.tile(np.arange(1, actions + 1, dtype=np.float32), (rows, 1)),
        "retention_set": np.full(rows, -1, dtype=np.int16),
        "group": np.arange(rows, dtype=np.int64),
        "split": np.zeros(rows, dtype=np.uint8),
    }
    tensors = plain | (changes or {})
    write_tensors(folder / "part-00000.safetensors", tensors)
    header = {
        "format": "safe-rl-outcomes",
        "version": 1,
        "actions": [f"action-{i}" for i in range(actions)],
        "features": {"question": 3, "image": 0, "audio_preview": 0, "confidence": 0},
        "retention_sets": [],
        "latency_unit_ms": 4,
        "provenance": {},
        "parts": [
            {
                "file": "part-00000.safetensors",
                "rows": rows,
                "sha256": sha256_file(folder / "part-00000.safetensors"),
            }
        ],
    }
    (folder / "table.json").write_text(json.dumps(header))
    return folder


def change_header(folder: Path, **changes: object) -> None:
    path = folder / "table.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_rows_are_gathered_over_several_parts_in_the_order_asked_for(synthetic_table: Path) -> None:
    table = OutcomeTable.open(synthetic_table)
    assert len(table.parts) == 4
    everything = np.concatenate([part["question"] for part in table.parts])
    rows = np.array([899, 0, 255, 256, 0, 512])
    np.testing.assert_array_equal(table.gather("question", rows), everything[rows])


def test_features_of_a_split_are_fresh_float32_arrays(synthetic_table: Path) -> None:
    train = OutcomeTable.open(synthetic_table).split("train")
    first = train.features["question"][[3, 1]]
    assert first.dtype == np.float32
    first[:] = 7
    assert not np.any(train.features["question"][[3, 1]] == 7)
    assert train.features["question"][5].shape == (6,)
    assert np.asarray(train.features["image"]).shape == (400, 4)


def test_tensors_are_mapped_and_not_copied(synthetic_table: Path) -> None:
    table = OutcomeTable.open(synthetic_table)
    for tensor in table.parts[0].values():
        base = tensor
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not tensor.flags.writeable


def test_a_split_has_its_own_rows_and_their_records(synthetic_table: Path) -> None:
    table = OutcomeTable.open(synthetic_table)
    assert table.splits == {"train": 400, "validation": 200, "calibration": 100, "test": 200}
    test = table.split("test")
    assert len(test) == 200
    assert test.record(0) == {
        "id": "row-700",
        "question": "question 700 ?",
        "answers": ["yes"],
        "type": "vl",
        "predictions": ["yes", "no"],
    }
    assert test.types[:3].tolist() == ["vl", "audio", "vl"]
    assert test.ids[-1] == "row-899"
    np.testing.assert_array_equal(test.score[:2], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(test.retention_set[:3], [0, -1, 0])
    np.testing.assert_array_equal(test.group[:3], [233, 233, 234])


def test_the_latency_unit_is_four_mean_audio_calls(synthetic_table: Path) -> None:
    assert OutcomeTable.open(synthetic_table).latency_unit_ms == 4 * 12.5


def test_a_table_made_elsewhere_opens_with_absent_features_and_without_rows_in_words(tmp_path: Path) -> None:
    table = OutcomeTable.open(foreign_table(tmp_path / "t"))
    train = table.split("train")
    assert list(train.observation([0, 1])) == ["question"]
    assert train.features["image"][[0, 1]].shape == (2, 0)
    assert train.record(2)["id"] == "row-2"
    assert table.retention_sets == ()


def test_a_table_with_three_actions_opens(tmp_path: Path) -> None:
    assert OutcomeTable.open(foreign_table(tmp_path / "t", actions=3)).split("train").score.shape == (5, 3)


def test_a_record_that_says_prediction_is_read_as_predictions(tmp_path: Path) -> None:
    folder = foreign_table(tmp_path / "t", rows=1)
    (folder / "part-00000.jsonl").write_text('{"id": "x", "prediction": ["a", "b"]}')  # no line break at the end
    assert OutcomeTable.open(folder).split("train").record(0)["predictions"] == ["a", "b"]


def test_predictions_may_be_an_object_by_action(tmp_path: Path) -> None:
    folder = foreign_table(tmp_path / "t", rows=1)
    (folder / "part-00000.jsonl").write_text(
        '{"id": "x", "type": null, "prediction": {"action-1": "b", "action-0": "a"}}'
    )
    record = OutcomeTable.open(folder).split("train").record(0)
    assert record["predictions"] == ["a", "b"]
    assert record["type"] == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not readable JSON"),
        ("[]", "a JSON object is expected, got list"),
        ('{"predictions": "yes"}', "predictions must be a list of 2, one for each of action-0, action-1, or absent"),
        ('{"predictions": ["yes"]}', "predictions must be a list of 2"),
        ('{"predictions": {"skip": "a", "use": "b"}}', "predictions must be a list of 2"),
    ],
)
def test_a_damaged_row_in_words_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    folder = foreign_table(tmp_path / "t", rows=2)
    (folder / "part-00000.jsonl").write_text(f"{{}}\n{line}\n")
    train = OutcomeTable.open(folder).split("train")
    with pytest.raises(TableError, match=rf"part-00000\.jsonl, line 2: {message}"):
        train.record(1)


def test_absent_features_may_be_written_as_tensors_of_no_width(tmp_path: Path) -> None:
    folder = foreign_table(tmp_path / "t", changes={"image": np.zeros((5, 0), dtype=np.float32)})
    assert list(OutcomeTable.open(folder).split("train").observation([0])) == ["question"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="the folder does not exist; build one, or correct the path"):
        OutcomeTable.open(tmp_path / "nothing")


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"is not an outcome table: it has no table\.json"):
        OutcomeTable.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "has format 'other', allowed is 'safe-rl-outcomes'"),
        ({"version": 2}, "has version 2, this program reads 1"),
        ({"parts": []}, "has no rows"),
        ({"latency_unit_ms": None}, r"is unfinished \(5 rows so far\); run the build again"),
        ({"latency_unit_ms": 0}, "latency_unit_ms must be a finite number > 0, got 0"),
        ({"latency_unit_ms": "5"}, "latency_unit_ms must be a finite number > 0, got '5'"),
        ({"actions": ["skip"]}, r"needs two or more different actions, got \['skip'\]"),
        ({"actions": "skip"}, "a list was expected, got str"),
        ({"features": {"smell": 3}}, "features must map some of question, image"),
        ({"features": {"question": 0}}, "all features have width 0, so nothing is left to decide by"),
        ({"features": {"question": 4}}, r"question has shape \[5, 3\], allowed is \[5, 4\]"),
        ({"features": {"question": 3, "image": 2}}, "has no tensor 'image'"),
        ({"parts": [{"file": "../x.safetensors", "rows": 1, "sha256": ""}]}, "must be the plain name"),
        ({"parts": [{"file": "part-00000.safetensors", "rows": 0, "sha256": ""}]}, "has rows 0"),
        ({"parts": [{"rows": 1}]}, r"is damaged \(KeyError"),
        ({"parts": [{"file": "gone.safetensors", "rows": 1, "sha256": ""}]}, "is missing, but table.json lists it"),
        ({"parts": [{"file": "part-00000.safetensors", "rows": 5, "sha256": "0" * 64}]}, "has a wrong checksum"),
        ({"retention_sets": ["a", "a"]}, "retention_sets has a name twice"),
        ({"action_tokens": [1]}, r"action_tokens needs one number per action \(2\), got 1"),
    ],
)
def test_a_wrong_header_is_one_clear_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = foreign_table(tmp_path / "t")
    change_header(folder, **changes)
    with pytest.raises(TableError, match=message) as caught:
        OutcomeTable.open(folder)
    assert "\n" not in str(caught.value)


def test_a_header_that_is_no_json_is_refused(tmp_path: Path) -> None:
    folder = foreign_table(tmp_path / "t")
    (folder / "table.json").write_text('{"format": ')
    with pytest.raises(TableError, match="is not readable JSON"):
        OutcomeTable.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": np.full((5, 2), 1.5, np.float32)}, r"score holds 1\.5, allowed is \[0, 1\]"),
        ({"score": np.full((5, 2), -0.5, np.float32)}, r"score holds -0\.5, allowed is \[0, 1\]"),
        ({"score": np.full((5, 2), np.nan, np.float32)}, "score holds NaN or infinity"),
        ({"question": np.full((5, 3), np.inf, np.float16)}, "question holds NaN or infinity"),
        ({"latency_ms": np.full((5, 2), -1, np.float32)}, "latency_ms holds a negative number"),
        ({"score": np.zeros((5, 2), np.float16)}, "score is float16, allowed is float32"),
        ({"question": np.zeros((5, 3), np.int64)}, "question is int64, allowed is float16 or float32"),
        ({"retention_set": np.zeros(5, np.int16)}, "retention_set holds 0, allowed is -1 to -1"),
        ({"split": np.full(5, 4, np.uint8)}, "split holds 4, allowed is 0 to 3"),
        ({"group": np.zeros(4, np.int64)}, r"group has shape \[4\], allowed is \[5\]"),
        ({"score": np.zeros((5, 2), np.int8)}, "holds 'score' as I8"),
    ],
)
def test_wrong_values_are_one_clear_line(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    folder = foreign_table(tmp_path / "t", changes=changes)
    with pytest.raises(TableError, match=message):
        OutcomeTable.open(folder)


def test_an_empty_split_says_which_ones_are_not(tmp_path: Path) -> None:
    table = OutcomeTable.open(foreign_table(tmp_path / "t"))
    with pytest.raises(TableError, match=r"split 'test' of .* is empty \(rows: train 5\); choose another split"):
        table.split("test")
    with pytest.raises(TableError, match="split 'dev' is unknown; allowed: train, validation, calibration, test"):
        table.split("dev")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 400), verify=st.booleans())
def test_a_truncated_part_never_opens(tmp_path: Path, length: int, verify: bool) -> None:
    folder = foreign_table(tmp_path / "t")
    part = folder / "part-00000.safetensors"
    data = part.read_bytes()
    part.write_bytes(data[: min(length, len(data) - 1)])
    with pytest.raises(TableError):
        OutcomeTable.open(folder, verify=verify)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 600), byte=st.integers(0, 255))
def test_a_flipped_byte_is_a_table_error_or_harmless(tmp_path: Path, place: int, byte: int) -> None:
    folder = foreign_table(tmp_path / "t")
    part = folder / "part-00000.safetensors"
    data = bytearray(part.read_bytes())
    changed = data[place % len(data)] != byte
    data[place % len(data)] = byte
    part.write_bytes(bytes(data))
    if changed:
        with pytest.raises(TableError, match="checksum"):
            OutcomeTable.open(folder)
    with contextlib.suppress(TableError):  # unverified, it may be read wrongly, but never fails in another way
        OutcomeTable.open(folder, verify=False).split("train").observation(slice(None))


def test_damaged_records_are_refused(synthetic_table: Path) -> None:
    records = synthetic_table / "part-00001.jsonl"
    text = records.read_text()
    records.write_text(text.replace("yes", "noo"))
    with pytest.raises(TableError, match=r"part-00001\.jsonl has a wrong checksum"):
        OutcomeTable.open(synthetic_table)
    records.unlink()
    with pytest.raises(TableError, match=r"part-00001\.jsonl is missing"):
        OutcomeTable.open(synthetic_table)


def test_records_that_do_not_match_the_rows_are_refused(tmp_path: Path) -> None:
    folder = foreign_table(tmp_path / "t")
    (folder / "part-00000.jsonl").write_text("{}\n{}\n")
    with pytest.raises(TableError, match="has 2 lines for 5 rows"):
        OutcomeTable.open(folder)


def test_a_table_of_another_origin_is_refused_by_name(make_table: Callable[..., Path]) -> None:
    table = OutcomeTable.open(make_table(seed=1))
    table.require({"seed": 1})
    with pytest.raises(TableError, match="comes from another build: seed is 1 in the table and 2 in the present run"):
        table.require({"seed": 2})


def test_the_fingerprint_names_the_contents(make_table: Callable[..., Path]) -> None:
    same = [OutcomeTable.open(make_table(name, seed=1)).fingerprint for name in ("a", "b")]
    assert same[0] == same[1]
    assert OutcomeTable.open(make_table("c", seed=2)).fingerprint != same[0]


@pytest.mark.parametrize(
    ("group", "found"),
    [
        ([7, 7, 3, 5, 1], None),
        ([7, 3, 3, 5, 1], (3, "train", "calibration")),
        ([4, 6, 1, 2, 1], (1, "calibration", "test")),
    ],
)
def test_a_group_in_two_splits_is_found(tmp_path: Path, group: list[int], found: tuple[int, str, str] | None) -> None:
    split = np.array([0, 0, 2, 1, 3], dtype=np.uint8)
    folder = foreign_table(tmp_path, changes={"group": np.array(group, dtype=np.int64), "split": split})
    assert OutcomeTable.open(folder).shared_group() == found


def test_a_sample_of_a_split_is_always_the_same_rows_in_their_order(synthetic_table: Path) -> None:
    train = OutcomeTable.open(synthetic_table).split("train")
    some = train.sample(20)
    assert len(np.unique(some.rows)) == 20
    assert np.all(np.diff(some.rows) > 0)
    assert set(some.rows) < set(train.rows)
    assert (some.name, some.rows.tolist()) == ("train", train.sample(20).rows.tolist())
    assert train.sample(len(train)) is train
