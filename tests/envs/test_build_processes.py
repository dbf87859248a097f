"""Tables that several processes build together: the rows of one process, also where some of them were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.build import build_table
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from envs.outcomes import OutcomeTable
from supervised.data.manifest import read_manifest

CONFIG = OutcomesConfig(batch_size=2, rows_per_part=3, exact_samples=2, latency_repeats=3, on_error="skip")
BUILD = """
import json, os, signal, sys
from pathlib import Path
from envs.answering import Answerer
from envs.build import build_table
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from supervised.data.manifest import read_manifest
from supervised.errors import SafeError
from supervised.processes import Processes
from supervised.safe_model import SafeModel

adapter, manifest, folder, settings = sys.argv[1:]
settings = json.loads(settings)
processes = Processes.current()
dies, asked, rows = settings.pop("dies", None), [], Answerer.rows

def watched(self, part, tell):
    asked.append([part.start, part.stop])
    found = rows(self, part, tell)
    if dies == [processes.rank, len(asked)]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

Answerer.rows = watched
profile = LatencyProfile(**settings.pop("profile")) if "profile" in settings else None
config = OutcomesConfig(batch_size=2, exact_samples=2, latency_repeats=3, **settings)
bar = []
tell = lambda done, total: bar.append(done)
error = None
try:
    table = build_table(SafeModel.from_pretrained(adapter), {"train": read_manifest(Path(manifest))}, config, folder,
                        tell, profile=profile)
except SafeError as problem:
    error = [type(problem).__name__, str(problem)]
Path(f"{folder}.{processes.rank}.json").write_text(json.dumps({"asked": asked, "bar": bar, "error": error}))
sys.exit(error is not None)
"""


@pytest.fixture(scope="module")
def profile() -> LatencyProfile:
    return LatencyProfile(1.0, 2.0, 0.5, 3.0, 0.25, 1.5, 20.0, 12.0, 0.125, 20.0, 4.0, 0.25)


@pytest.fixture
def build(
    launch: Callable[..., Any], tiny_model: Any, sixty: Path, tmp_path: Path, profile: LatencyProfile
) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """Return a function that builds in processes of their own; it gives the exit code and what each process told."""
    tiny_model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "build.py").write_text(textwrap.dedent(BUILD))

    def run(folder: Path, processes: int, **settings: Any) -> tuple[int, list[dict[str, Any]]]:
        settings = {"rows_per_part": 3, "on_error": "skip", "profile": profile.as_json()} | settings
        settings = {name: value for name, value in settings.items() if value is not None}
        words = [tmp_path / "build.py", tmp_path / "adapter", sixty, folder, json.dumps(settings)]
        ended = launch(*words, processes=processes)
        told = [Path(f"{folder}.{rank}.json") for rank in range(processes)]
        return ended.returncode, [json.loads(path.read_text()) if path.exists() else {} for path in told]

    return run


def assert_same_rows(table: OutcomeTable, expected: OutcomeTable) -> None:
    assert [table.record(row) for row in range(len(table))] == [expected.record(row) for row in range(len(expected))]
    there, here = expected.split("train"), table.split("train")
    for name in ("score", "latency_ms", "group", "retention_set"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    for name, values in here.observation(slice(None)).items():
        np.testing.assert_array_equal(values, there.observation(slice(None))[name])
    assert table.retention_sets == expected.retention_sets
    assert table.provenance["left_out"] == expected.provenance["left_out"]
    assert table.latency_unit_ms == expected.latency_unit_ms


@pytest.mark.slow
def test_two_processes_build_the_table_of_one(
    build: Callable[..., Any], tiny_model: Any, sixty: Path, tmp_path: Path, profile: LatencyProfile
) -> None:
    samples = read_manifest(sixty)
    assert isinstance(samples[7].image, Path)
    samples[7].image.write_bytes(b"no picture")  # left out: in a part of the second process
    code, (main, other) = build(tmp_path / "two", 2)
    assert code == 0
    assert main["asked"] == [[start, start + 3] for start in range(0, 60, 6)]
    assert other["asked"] == [[start, start + 3] for start in range(3, 60, 6)]
    assert main["bar"] == sorted(main["bar"])
    assert main["bar"][-1] == 60
    assert other["bar"] == []
    expected = build_table(tiny_model, {"train": samples}, CONFIG, tmp_path / "one", profile=profile)
    assert [left["id"] for left in expected.provenance["left_out"]] == [samples[7].id]
    assert_same_rows(OutcomeTable.open(tmp_path / "two"), expected)
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}  # no leavings


@pytest.mark.slow
def test_a_killed_process_loses_its_part_only_and_others_go_on(
    build: Callable[..., Any], tiny_model: Any, sixty: Path, tmp_path: Path, profile: LatencyProfile
) -> None:
    folder = tmp_path / "killed"
    code, _ = build(folder, 3, dies=[2, 3])  # the third of three processes, at the end of its third part
    assert code != 0
    header = json.loads((folder / "table.json").read_text())
    assert header["position"] == 18
    ready = sorted(path.name for path in folder.glob(".rows-*.json"))
    assert ".rows-000000024-000000027.json" not in ready
    code, told = build(folder, 2)
    assert code == 0
    asked = sorted(tuple(part) for process in told for part in process["asked"])
    lay_ready = {tuple(int(word) for word in Path(name).stem[6:].split("-")) for name in ready}
    assert set(asked) == {(start, start + 3) for start in range(18, 60, 3)} - lay_ready
    expected = build_table(tiny_model, {"train": read_manifest(sixty)}, CONFIG, tmp_path / "one", profile=profile)
    assert_same_rows(OutcomeTable.open(folder), expected)


@pytest.mark.slow
def test_latency_is_measured_once_and_an_error_of_one_process_ends_all(
    build: Callable[..., Any], sixty: Path, tmp_path: Path
) -> None:
    assert build(tmp_path / "measured", 2, profile=None)[0] == 0
    table = OutcomeTable.open(tmp_path / "measured")
    latency = table.split("train").latency_ms
    for row in range(6, 60):  # the questions repeat themselves, also across the processes
        assert latency[row].tolist() == latency[row % 6].tolist()
    image = read_manifest(sixty)[40].image
    assert isinstance(image, Path)
    image.write_bytes(b"no picture")
    code, told = build(tmp_path / "damaged", 2, on_error="stop")
    assert code != 0
    (kind, why) = told[1]["error"]  # question 40 is in a part of the second process
    assert kind == "DataError"
    assert image.name in why
    if told[0]:  # unless the launcher was faster
        assert told[0]["error"] == ["ProcessError", f"process 1 of this run ended: {why}"]
    assert json.loads((tmp_path / "damaged" / "table.json").read_text())["position"] == 36


@pytest.mark.slow
def test_an_interrupted_launch_ends_every_process(
    build: Callable[..., Any], sixty: Path, tmp_path: Path, profile: LatencyProfile
) -> None:
    del build  # it has written the adapter and the program
    config = Path(__file__).parents[2] / "configs" / "accelerate" / "cpu.yaml"
    folder = tmp_path / "interrupted"
    settings = json.dumps({"rows_per_part": 1, "profile": profile.as_json()})
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", 0]
    command += [tmp_path / "build.py", tmp_path / "adapter", sixty, folder, settings]
    with subprocess.Popen([*map(str, command)], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        while not (folder / "part-00004.safetensors").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - started < 25  # the launcher kills after 30 seconds; nobody had to be killed
    assert json.loads((folder / "table.json").read_text())["position"] >= 5
