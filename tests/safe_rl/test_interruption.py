"""Ctrl-C at any moment: one line, exit code 130, nothing finished is lost, and the run goes on bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_rl import train_policy, train_stage_a

LONG = "--total_timesteps 10000 --seeds 2 --ppo.num_envs 250 --ppo.batch_size 250 --curriculum.steps 1000".split()


def interrupt(verb: str, argv: list[str], ready: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """Start a command, press Ctrl-C as soon as it is `ready`, and return how it ended."""
    command = [sys.executable, "-m", f"safe_rl.{verb}", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 300
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def says(path: Path, text: str) -> Callable[[], bool]:
    return lambda: path.exists() and text in path.read_text()


@pytest.mark.slow
def test_interrupted_training_of_policies_goes_on_bit_for_bit(table: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    argv = ["--table", str(table), *LONG]
    assert train_policy.main([*argv, "--run_dir", str(whole)]) == 0
    # In the second policy, and after its first checkpoint.
    ready = says(broken / "metrics.jsonl", '"part": "seed-1", "step": 3000')
    ended = interrupt("train_policy", [*argv, "--run_dir", str(broken)], ready)
    assert ended.returncode == 130
    assert ended.stderr.strip().splitlines() == [
        f"Interrupted. What is finished is kept in {broken}; the same command with --resume goes on."
    ]
    assert (broken / "policies" / "seed-0" / "policy.json").exists()
    assert not (broken / "policies" / "seed-1" / "policy.json").exists()
    finished = (broken / "policies" / "seed-0" / "policy.safetensors").stat().st_mtime_ns
    assert train_policy.main([*argv, "--run_dir", str(broken), "--resume"]) == 0
    assert (broken / "policies" / "seed-0" / "policy.safetensors").stat().st_mtime_ns == finished
    for name in ("policies/seed-0/policy.safetensors", "policies/seed-1/policy.safetensors", "decisions.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((broken / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    steps = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["part"] == "seed-1"] == list(range(250, 10_001, 250))


@pytest.mark.slow
def test_an_interruption_during_the_first_second_is_one_line(table: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    argv = ["--table", str(table), "--run_dir", str(tmp_path / "run"), *LONG]
    ended = interrupt("train_policy", argv, lambda: time.monotonic() > started + 0.7)
    assert ended.returncode in (130, -signal.SIGINT)  # before our first line, the interpreter itself is what ends
    assert "Traceback" not in ended.stderr or ended.returncode == -signal.SIGINT


@pytest.mark.slow
def test_interrupted_stage_a_goes_on(manifest: Path, tiny: list[str], tmp_path: Path) -> None:
    argv = [*tiny, "--data.manifest", str(manifest / "manifest.jsonl"), "--run_dir", str(tmp_path / "run")]
    argv += ["--stage_a.steps", "120", "--stage_a.eval_every", "60", "--stage_a.checkpoint_every", "10"]
    ended = interrupt("train_stage_a", argv, lambda: any((tmp_path / "run" / "stage_a").glob("checkpoint*")))
    assert ended.returncode == 130
    told = ended.stderr.strip()
    assert told.startswith("Interrupted. Stage A was stopped at step")
    assert "\n" not in told
    assert train_stage_a.main([*argv, "--resume"]) == 0
    assert (tmp_path / "run" / "stage_a" / "adapter").is_dir()


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_worker_behind(table: Path, tmp_path: Path) -> None:
    argv = ["--table", str(table), "--run_dir", str(tmp_path / "run"), *LONG, "--pareto.alphas", "[0, 0.5, 1]"]
    first = tmp_path / "run" / "pareto" / "alpha-0" / "seed-0" / "checkpoint" / "checkpoint.json"
    ended = interrupt("pareto", argv, first.exists)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    # `communicate` returned, so no worker holds the pipes any more.
