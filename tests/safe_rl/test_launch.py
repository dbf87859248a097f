"""Commands under `accelerate launch`, on two processes of the CPU: one run, one voice, one line where it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from envs.outcomes import OutcomeTable
from safe_rl import build_outcomes, train_stage_a

Launch = Callable[..., subprocess.CompletedProcess[str]]

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="deepspeed is not installed; pip install 'safe-rl-audio[deepspeed]'"
)


def errors(ended: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in ended.stderr.splitlines() if line.startswith(("error:", "Interrupted"))]


def check_same_rows(found: Path, expected: Path) -> None:
    """The outcome tables of two runs hold the same 32 rows, bit for bit."""
    two, one = OutcomeTable.open(found / "table"), OutcomeTable.open(expected / "table")
    assert len(two) == 32
    assert [two.record(row) for row in range(32)] == [one.record(row) for row in range(32)]
    for split in one.splits:
        np.testing.assert_array_equal(two.split(split).score, one.split(split).score)
        for name, values in two.split(split).observation(slice(None)).items():
            np.testing.assert_array_equal(values, one.split(split).observation(slice(None))[name])


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
    check_same_rows(tmp_path / "two", tmp_path / "one")
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
    for name, options in (("whole", {}), ("spread", {"config": CONFIGS / "fsdp.yaml"})):
        ended = launch("-m", "safe_rl.train_stage_a", *argv, "--run_dir", tmp_path / name, **options)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("Stage A: training the adapter") == 1
    whole, spread = (tmp_path / name / "stage_a" for name in ("whole", "spread"))
    assert (whole / "metrics.jsonl").read_bytes() == (spread / "metrics.jsonl").read_bytes()
    tensors = [next((folder / "adapter").glob("*.safetensors")) for folder in (whole, spread)]
    assert tensors[0].name == tensors[1].name
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


@needs_deepspeed
@pytest.mark.slow
def test_deepspeed_trains_the_same_adapter_and_builds_the_same_rows(
    launch: Launch, manifest: Path, tiny: list[str], tmp_path: Path
) -> None:
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl")]
    assert build_outcomes.main([*argv, "--run_dir", str(tmp_path / "one")]) == 0
    shutil.copytree(tmp_path / "one" / "stage_a", tmp_path / "rows" / "stage_a")
    options = {"config": CONFIGS / "deepspeed.yaml"}
    ended = launch("-m", "safe_rl.train_stage_a", *argv, "--run_dir", tmp_path / "spread", **options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Stage A: training the adapter") == 1
    one, spread = (tmp_path / name / "stage_a" for name in ("one", "spread"))
    told = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (spread, one)
    ]
    for found, expected in zip(*told, strict=True):
        for name in expected.keys() - {"kind", "residual_ratio"}:  # that is of the first process's questions
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
    adapters = [load_file(next((folder / "adapter").glob("*.safetensors"))) for folder in (spread, one)]
    for name, value in adapters[1].items():
        assert float((adapters[0][name] - value).abs().max()) < 1e-4, name
    ended = launch("-m", "safe_rl.build_outcomes", *argv, "--run_dir", tmp_path / "rows", **options)
    assert ended.returncode == 0, ended.stderr
    check_same_rows(tmp_path / "rows", tmp_path / "one")


@needs_deepspeed
@pytest.mark.slow
def test_other_stages_of_deepspeed_run_with_the_base_whole(
    launch: Launch, manifest: Path, tiny: list[str], tmp_path: Path
) -> None:
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl"), "--run_dir", tmp_path / "run"]
    ended = launch("--zero_stage", 2, "-m", "safe_rl.train_stage_a", *argv, config=CONFIGS / "deepspeed.yaml")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("ZeRO stage 2 leaves the base whole on every process") == 1


@pytest.mark.slow
def test_a_step_with_too_few_questions_for_a_spread_base_is_refused(
    launch: Launch, manifest: Path, tiny: list[str], tmp_path: Path
) -> None:
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl"), "--run_dir", tmp_path / "run"]
    few = ["--stage_a.batch_size", "3", "--stage_a.accumulate", "2"]
    ended = launch("-m", "safe_rl.train_stage_a", *argv, *few, config=CONFIGS / "fsdp.yaml")
    assert ended.returncode != 0
    assert errors(ended) == [
        "error: a step is taken on 3 questions, and with the base spread each of its 4 parts (processes times "
        "stage_a.accumulate) needs one; raise stage_a.batch_size, or lower stage_a.accumulate."
    ]


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
