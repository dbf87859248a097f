"""Writing tables: whole parts or none, a build that goes on after a kill, and no mixing of builds."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.outcomes import OutcomeTable
from envs.table_format import Header
from envs.table_writer import TableWriter
from supervised.errors import TableError

SLOW_BUILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import synthetic_tables
original = synthetic_tables.TableWriter.write_part
def slowly(self, *args, **kwargs):
    original(self, *args, **kwargs)
    time.sleep(0.02)
synthetic_tables.TableWriter.write_part = slowly
synthetic_tables.build_synthetic_table(Path(sys.argv[2]), rows_per_part=16)
print("finished")
"""
ONE_ROW: dict[str, np.ndarray] = {
    "question": np.zeros((1, 2), np.float32),
    "score": np.zeros((1, 2), np.float32),
    "latency_ms": np.array([[1, 2]], np.float32),
    "retention_set": np.full(1, -1, np.int16),
    "group": np.zeros(1, np.int64),
    "split": np.zeros(1, np.uint8),
}


def header(**provenance: object) -> Header:
    return Header(("skip", "use"), {"question": 2}, provenance=provenance)


def run_build(folder: Path) -> subprocess.Popen[str]:
    helpers = Path(__file__).parents[1] / "helpers"
    command = [sys.executable, "-c", SLOW_BUILD, str(helpers), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def parts_so_far(folder: Path) -> int:
    try:
        return len(json.loads((folder / "table.json").read_text())["parts"])
    except FileNotFoundError:
        return 0


def test_a_build_killed_again_and_again_loses_and_doubles_no_row(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    kills, before = 0, 0
    for _ in range(3):
        process = run_build(folder)
        deadline = time.monotonic() + 60
        while parts_so_far(folder) < before + 5 and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before, kills = parts_so_far(folder), kills + 1
        with pytest.raises(TableError, match="is unfinished"):
            OutcomeTable.open(folder)
    assert kills == 3
    assert 15 <= before < 57  # it was at work each time, and never done
    process = run_build(folder)
    assert process.communicate(timeout=60)[0] == "finished\n"

    table, whole = OutcomeTable.open(folder), run_build(tmp_path / "whole")
    assert whole.communicate(timeout=60)[0] == "finished\n"
    expected = OutcomeTable.open(tmp_path / "whole")
    assert table.header == expected.header
    assert [table.record(row)["id"] for row in range(len(table))] == [f"row-{row}" for row in range(900)]
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_remains_of_a_killed_writer_are_removed_and_written_again(tmp_path: Path) -> None:
    TableWriter(tmp_path, header())
    (tmp_path / ".part-00000.safetensors.abc.safetensors").write_bytes(b"half")
    (tmp_path / "part-00000.safetensors").write_bytes(b"written, but never listed")
    writer = TableWriter(tmp_path, header())
    assert writer.position == 0
    writer.write_part(ONE_ROW, [{"id": "a"}], 1)
    writer.finish()
    assert len(OutcomeTable.open(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part-00000.jsonl",
        "part-00000.safetensors",
        "table.json",
    ]


def test_the_table_of_another_build_is_not_continued(tmp_path: Path) -> None:
    TableWriter(tmp_path, header(model={"adapter": "aaa"}))
    with pytest.raises(
        TableError, match=r"another build: model\.adapter is 'aaa' in the table and 'bbb' in the present run"
    ):
        TableWriter(tmp_path, header(model={"adapter": "bbb"}))
    other = Header(("skip", "use"), {"question": 2, "image": 3}, provenance={"model": {"adapter": "aaa"}})
    with pytest.raises(TableError, match=r"another build: features\.image is 0 in the table and 3"):
        TableWriter(tmp_path, other)


def test_what_the_build_itself_added_does_not_make_it_another(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, header(config={"sizes": (1, 2)}))
    writer.write_part(ONE_ROW, [{"id": "a"}], 1, provenance={"left_out": ["b"]})
    again = TableWriter(tmp_path, header(config={"sizes": (1, 2)}))
    assert again.position == 1
    assert again.header.provenance["left_out"] == ["b"]


def test_a_finished_table_takes_no_more_rows(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, header())
    writer.write_part(ONE_ROW, [{"id": "a"}], 1)
    writer.finish()
    assert TableWriter(tmp_path, header()).finished
    with pytest.raises(TableError, match="is finished; write into another folder"):
        writer.write_part(ONE_ROW, [{"id": "b"}], 2)


def test_rows_that_break_the_format_are_refused_and_not_listed(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, header())
    with pytest.raises(TableError, match="score holds NaN"):
        writer.write_part({**ONE_ROW, "score": np.full((1, 2), np.nan, np.float32)}, [{"id": "a"}], 1)
    with pytest.raises(TableError, match=r"unknown tensors \['taste'\]"):
        writer.write_part({**ONE_ROW, "taste": np.zeros(1)}, [{"id": "a"}], 1)
    assert writer.position == 0
    with pytest.raises(TableError, match="has no rows"):
        writer.finish()


def finished(folder: Path, latency: list[float], split: int = 0, unit: float | None = None) -> float:
    writer = TableWriter(folder, header())
    changed: dict[str, np.ndarray] = {
        "latency_ms": np.array([latency], np.float32),
        "split": np.full(1, split, np.uint8),
    }
    writer.write_part({**ONE_ROW, **changed}, [{"id": "a"}], 1)
    writer.finish(unit)
    return OutcomeTable.open(folder).latency_unit_ms


def test_the_latency_unit_has_a_meaning_without_train_rows_and_without_extra_latency(tmp_path: Path) -> None:
    assert finished(tmp_path / "train", [10, 13]) == 12
    assert finished(tmp_path / "no train", [10, 13], split=3) == 12
    assert finished(tmp_path / "audio is free", [10, 10]) == 10
    assert finished(tmp_path / "all is free", [0, 0]) == 1
    assert finished(tmp_path / "given", [10, 13], unit=2.5) == 2.5


def test_samples_left_out_move_the_position_without_a_part(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, header())
    writer.write_part({}, [], 7)
    again = TableWriter(tmp_path, header())
    assert (again.position, again.header.parts) == (7, ())


def test_retention_sets_can_only_be_added(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, header())
    writer.write_part({**ONE_ROW, "retention_set": np.zeros(1, np.int16)}, [{"id": "a"}], 1, retention_sets=["vl"])
    with pytest.raises(TableError, match=r"can only be added, got \['x'\] after \['vl'\]"):
        writer.write_part(ONE_ROW, [{"id": "b"}], 2, retention_sets=["x"])


def test_a_full_disk_costs_the_part_being_written_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TableWriter(tmp_path, header())
    writer.write_part(ONE_ROW, [{"id": "a"}], 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("envs.table_writer.write_tensors", full)
        with pytest.raises(OSError, match="No space left on device"):
            writer.write_part(ONE_ROW, [{"id": "b"}], 2)
    again = TableWriter(tmp_path, header())
    assert again.position == 1
    again.write_part(ONE_ROW, [{"id": "b"}], 2)
    again.finish()
    assert [OutcomeTable.open(tmp_path).record(row)["id"] for row in (0, 1)] == ["a", "b"]
