"""Commands under `accelerate launch`, on two processes of the CPU: one run, one voice, one line where it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.outcomes import OutcomeTable
from safe_rl import build_outcomes, train_stage_a

Launch = Callable[..., subprocess.CompletedProcess[str]]


def errors(ended: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in ended.stderr.splitlines() if line.startswith(("error:", "Interrupted"))]


@pytest.mark.slow
def test_a_launched_run_is_one_run(launch: Launch, manifest: Path, tiny: list[str], tmp_path: Path) -> None:
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl"), "--outcomes.rows_per_part", "3"]
    assert train_stage_a.main([*argv, "--run_dir", str(tmp_path / "one")]) == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    ended = launch("-m", "safe_rl.train_policy", *argv, "--run_dir", tmp_path / "two")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Outcome table: asking every question") == 1
    assert ended.stdout.count("Figures, decisions, policies and picture:") == 1
    assert build_outcomes.main([*argv, "--run_dir", str(tmp_path / "one")]) == 0
    two, one = OutcomeTable.open(tmp_path / "two" / "table"), OutcomeTable.open(tmp_path / "one" / "table")
    assert len(two) == 32
    assert [two.record(row) for row in range(32)] == [one.record(row) for row in range(32)]
    for split in one.splits:
        np.testing.assert_array_equal(two.split(split).score, one.split(split).score)
        for name, values in two.split(split).observation(slice(None)).items():
            np.testing.assert_array_equal(values, one.split(split).observation(slice(None))[name])
    told = json.loads((tmp_path / "two" / "run.json").read_text())
    assert [entry["verb"] for entry in (*told["earlier"], told)] == ["train_stage_a", "train_policy"]
    assert told["finished"] is not None
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["part"] == "seed-0"]
    assert steps == sorted(set(steps))
    # It goes on, alone or together, where nothing is left to do.
    again = launch("-m", "safe_rl.build_outcomes", *argv, "--run_dir", tmp_path / "two", processes=3)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Outcome table:") == 1


@pytest.mark.slow
def test_a_spread_base_trains_the_same_adapter(launch: Launch, manifest: Path, tiny: list[str], tmp_path: Path) -> None:
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl")]
    fsdp = Path(__file__).parents[2] / "configs" / "accelerate" / "fsdp.yaml"
    for name, options in (("whole", {}), ("spread", {"config": fsdp})):
        ended = launch("-m", "safe_rl.train_stage_a", *argv, "--run_dir", tmp_path / name, **options)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("Stage A: training the adapter") == 1
    whole, spread = (tmp_path / name / "stage_a" for name in ("whole", "spread"))
    assert (whole / "metrics.jsonl").read_bytes() == (spread / "metrics.jsonl").read_bytes()
    tensors = [next((folder / "adapter").glob("*.safetensors")) for folder in (whole, spread)]
    assert tensors[0].name == tensors[1].name
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


@pytest.mark.slow
def test_what_stops_a_launched_run_is_said_once(
    launch: Launch, manifest: Path, tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl")]
    ended = launch("-m", "safe_rl.build_outcomes", *argv, "--run_dir", tmp_path / "file")
    assert ended.returncode != 0
    assert len(errors(ended)) == 1
    assert "file is a file; give a folder" in errors(ended)[0] or "is in the way" in errors(ended)[0]
    ended = launch("-m", "safe_rl.build_outcomes", "--outcomes.batch_size", 0)
    assert len(errors(ended)) == 1
    assert "outcomes.batch_size must be at least 1, got 0" in errors(ended)[0]


@pytest.mark.slow
def test_the_work_of_one_process_is_refused_in_one_line(launch: Launch, table: Path, tmp_path: Path) -> None:
    ended = launch("-m", "safe_rl.pareto", "--table", table, "--run_dir", tmp_path / "run")
    assert ended.returncode != 0
    assert errors(ended) == [
        "error: pareto is the work of one process; start it as python -m safe_rl.pareto, without a launcher."
    ]
    assert not (tmp_path / "run").exists()
