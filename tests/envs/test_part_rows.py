"""How questions are dealt out to processes, and how rows reach the process that writes the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.part_rows import PartRows, remove_rows, shares


def rows(sets: list[str], indices: list[int]) -> PartRows:
    column = np.array(indices, dtype=np.int16)
    score = np.arange(2 * len(indices), dtype=np.float32).reshape(-1, 2)
    tensors: dict[str, np.ndarray] = {"score": score, "retention_set": column}
    return PartRows(tensors, [{"id": f"q{i}"} for i in range(len(indices))], [{"id": "x", "reason": "torn"}], sets)


@given(
    position=st.integers(0, 500),
    further=st.integers(1, 3000),
    count=st.integers(1, 9),
    window=st.integers(1, 64),
    windows=st.integers(1, 9),
    odd=st.booleans(),
)
def test_each_question_is_dealt_once_and_windows_are_those_of_one_process(
    position: int, further: int, count: int, window: int, windows: int, odd: bool
) -> None:
    size, total = window * windows + odd, position + further
    cuts = set()  # where windows end, with one process and with several
    for processes in (1, count):
        place, ends = position, set()
        seen: list[int] = []
        while place < total:
            parts = shares(place, total, processes, size, window)
            assert len(parts) == processes
            assert all(len(part) <= size for part in parts)
            for part in parts:
                seen.extend(part)
                ends |= {min(first + window, part.stop) for first in range(part.start, part.stop, window)}
            place = parts[-1].stop
        assert seen == list(range(position, total))
        cuts.add(frozenset(ends))
    assert len(cuts) == 1


def test_the_last_questions_are_shared_by_all() -> None:
    assert shares(0, 1000, 2, 4096, 512) == [range(512), range(512, 1000)]
    assert shares(0, 10_000, 2, 4096, 512) == [range(4096), range(4096, 8192)]
    assert shares(8192, 10_000, 2, 4096, 512) == [range(8192, 9216), range(9216, 10_000)]
    assert shares(0, 10, 3, 4, 3) == [range(4), range(4, 8), range(8, 10)]
    assert shares(0, 3, 3, 4, 3) == [range(3), range(3, 3), range(3, 3)]


def test_retention_sets_keep_the_numbers_of_the_table() -> None:
    tensors, sets = rows(["gqa", "vqav2"], [0, -1, 1]).joined(["vqav2"])
    assert sets == ["vqav2", "gqa"]
    assert tensors["retention_set"].tolist() == [1, -1, 0]
    assert tensors["retention_set"].dtype == np.int16
    assert PartRows(sets=[]).joined(["vqav2"]) == ({}, ["vqav2"])


def test_rows_are_handed_over_whole_or_not_at_all(tmp_path: Path) -> None:
    given, places = rows(["gqa"], [0, -1]), range(3, 6)
    assert PartRows.load(tmp_path, places, "a") is None
    given.save(tmp_path, places, "a")
    found: Any = PartRows.load(tmp_path, places, "a")
    assert (found.records, found.left_out, found.sets) == (given.records, given.left_out, given.sets)
    for name, array in given.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array)
    assert PartRows.load(tmp_path, places, "b") is None  # another model
    assert PartRows.load(tmp_path, range(3, 7), "a") is None


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_damaged_rows_are_computed_again(tmp_path: Path, suffix: str) -> None:
    rows(["gqa"], [0, -1]).save(tmp_path, range(2), "a")
    path = next(tmp_path.glob(f".rows-*.{suffix}"))
    path.write_bytes(path.read_bytes()[:-3])
    assert PartRows.load(tmp_path, range(2), "a") is None


def test_only_questions_left_out_are_handed_over_too(tmp_path: Path) -> None:
    PartRows(left_out=[{"id": "x", "reason": "torn"}]).save(tmp_path, range(1), "a")
    found = PartRows.load(tmp_path, range(1), "a")
    assert found == PartRows(left_out=[{"id": "x", "reason": "torn"}])


def test_what_was_handed_over_is_removed(tmp_path: Path) -> None:
    for places in (range(2), range(2, 4)):
        rows([], [-1, -1]).save(tmp_path, places, "a")
    remove_rows(tmp_path, range(2))
    assert PartRows.load(tmp_path, range(2, 4), "a") is not None
    assert len(list(tmp_path.iterdir())) == 2
    remove_rows(tmp_path)
    assert not list(tmp_path.iterdir())
