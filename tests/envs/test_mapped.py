"""Rows of stored tensors: the same as those of the mapping, whatever is asked for; large tables use them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import mapped, outcomes
from envs.mapped import StoredTensor, line_edges, map_tensors, read_bytes, stored_tensors
from envs.outcomes import OutcomeTable
from supervised.errors import TableError
from supervised.files import write_tensors

LENGTHS = (700, 1, 900)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files; rows of 1,200 bytes, so that some lie within one read of each other and some do not."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    paths = [folder / f"{i}.safetensors" for i in range(len(LENGTHS))]
    for path, rows in zip(paths, LENGTHS, strict=True):
        write_tensors(path, {"wide": rng.random((rows, 300), dtype=np.float32), "code": rng.integers(0, 9, rows)})
    return paths


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, sum(LENGTHS) - 1), max_size=40), at_once=st.integers(1, 50))
def test_any_rows_of_several_files_are_those_of_the_mappings(parts: list[Path], rows: list[int], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "_ROWS_AT_ONCE", at_once)
        for name in ("wide", "code"):
            everything = np.concatenate([map_tensors(path)[name] for path in parts])
            tensor = StoredTensor.joined([stored_tensors(path)[name] for path in parts])
            assert (tensor.shape, tensor.dtype) == (everything.shape, everything.dtype)
            np.testing.assert_array_equal(tensor[np.array(rows, dtype=np.int64)], everything[rows])


def test_a_slice_is_read_whole(parts: list[Path]) -> None:
    tensor = stored_tensors(parts[0])["wide"]
    np.testing.assert_array_equal(tensor[5:650], map_tensors(parts[0])["wide"][5:650])


def test_rows_far_apart_are_not_read_together(parts: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    pread = mapped.os.pread
    monkeypatch.setattr(mapped.os, "pread", lambda file, count, at: counts.append(count) or pread(file, count, at))
    stored_tensors(parts[2])["wide"][np.array([800, 0, 3, 4])]
    assert counts == [5 * 1200, 1200]  # 0 to 4, whose gap of 3 rows is 3,600 bytes, and 800


def test_a_file_that_became_shorter_is_reported(parts: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(parts[0], tmp_path))
    tensor = stored_tensors(path)["wide"]
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(TableError, match="became shorter; restore it"):
        tensor[np.array([0, 699])]


def test_a_large_table_is_read_by_rows_and_gives_the_same(
    synthetic_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = OutcomeTable.open(synthetic_table)
    monkeypatch.setattr(outcomes, "_MAPPED_BYTES", 0)
    large = OutcomeTable.open(synthetic_table)
    rows = np.random.default_rng(1).permutation(len(small))[:50]
    for name in small.parts[0]:
        np.testing.assert_array_equal(large.gather(name, rows), small.gather(name, rows))
    large.parts = []  # no mapping is touched
    np.testing.assert_array_equal(
        large.split("train").features["question"][3:9], small.split("train").features["question"][3:9]
    )
    assert large.splits == small.splits


def test_a_large_table_is_found_from_another_folder(synthetic_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_MAPPED_BYTES", 0)
    monkeypatch.chdir(synthetic_table.parent)
    table = OutcomeTable.open(synthetic_table.name)
    first = table.gather("score", np.arange(3)), table.record(0)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(table.gather("score", np.arange(3)), first[0])
    assert table.record(0) == first[1]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_lines_are_found_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(mapped, "_SCANNED_BYTES", piece)
    path = tmp_path / "lines"
    path.write_bytes(b"ab\n\ncde\nf")
    edges = line_edges(path)
    assert edges.tolist() == [0, 3, 4, 8, 9]
    assert read_bytes(path, 4, 4) == b"cde\n"
    path.write_bytes(b"ab\n")
    assert line_edges(path).tolist() == [0, 3]
