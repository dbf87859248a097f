"""Whatever a user gives, a command that cannot go on ends in one line: what was given, what is allowed, what to do."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from safe_rl import build_outcomes, train_policy, train_stage_a
from safe_rl.artefact import claim
from supervised.errors import CheckpointError, TableError


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what stderr holds, which is one line and no traceback."""
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert told.startswith("error: ")
    return told


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--reward.alfa", "1"], "unknown option --reward.alfa, did you mean --reward.alpha"),
        (["--reward.alpha", "-1"], "reward.alpha must be a finite number >= 0, got -1.0"),
        (["--reward.alpha", "1e30"], "reward.alpha must be at most 1e+06, got 1e+30"),
        (["--curriculum.initial", "1e300"], "curriculum.initial must be between 0 and 1e+06, got 1e+300"),
        (["--pareto.alphas", "[0, 1e30]"], "pareto.alphas must be at most 1e+06, got 1e+30"),
        (["--seeds", "0"], "seeds must be at least 1, got 0; use e.g. 5."),
        (["--total_timesteps", "-5"], "total_timesteps must be at least 1, got -5"),
        (["--pareto.alphas", "[-1]"], "pareto.alphas must be numbers >= 0, got [-1.0]"),
        (["--pareto.alphas", "[1, 1]"], "pareto.alphas must differ"),
        (["--run_dir", ""], "run_dir is empty; give the path of a folder"),
        (["--lagrangian.limit", "-0.1"], "lagrangian.limit must be"),
        (["--data.test", "0"], "data.test must be at least 1, got 0"),
        (["--config", "absent.yaml"], "absent.yaml cannot be read as YAML"),
        (["--table", "absent"], "table: absent does not exist; give the folder of an outcome table"),
        (["--data.recordings", "absent"], "data.recordings: absent does not exist; give the folder of ESC-10"),
        (["--data.manifest", "absent.jsonl"], "data.manifest: absent.jsonl is not a file"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [] if "--run_dir" in argv else ["--run_dir", str(tmp_path / "run")]
    assert train_policy.main([*argv, *place]) == 2
    assert message in only_line(capsys)
    assert not (tmp_path / "run").exists()


def test_the_configuration_for_recordings_asks_for_their_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(__file__).parents[2] / "configs" / "esc10.yaml"
    monkeypatch.chdir(tmp_path)
    assert train_policy.main(["--config", str(config)]) == 2
    assert "with --data.recordings DIR" in only_line(capsys)


def test_a_table_with_a_wrong_checksum_is_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(table, tmp_path / "broken"))
    part = broken / "part-00000.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    assert train_policy.main(["--table", str(broken), "--run_dir", str(tmp_path / "run")]) == 1
    assert "wrong checksum" in only_line(capsys)


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert train_policy.main(["--table", str(tmp_path / "empty"), "--run_dir", str(tmp_path / "run")]) == 1
    assert "is not an outcome table" in only_line(capsys)


def test_build_outcomes_takes_no_table(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_outcomes.main(["--table", str(table), "--run_dir", str(tmp_path / "run")]) == 2
    assert "leave --table out" in only_line(capsys)


def test_a_file_as_run_folder_is_refused(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").touch()
    assert train_policy.main(["--table", str(table), "--run_dir", str(tmp_path / "run")]) == 2
    assert "is a file; give a folder" in only_line(capsys)


def test_an_adapter_of_another_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tmp_path / "stage_a", {"stage_a": {"steps": 7}}, CheckpointError)
    (tmp_path / "stage_a" / "adapter").mkdir()
    assert train_stage_a.main(["--run_dir", str(tmp_path)]) == 1
    told = only_line(capsys)
    assert "stage_a was made with another configuration" in told
    assert "give another --run_dir" in told


def test_a_table_of_another_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tmp_path / "table", {"outcomes": {"preview": "clap"}}, TableError)
    (tmp_path / "table" / "part-00000.safetensors").touch()
    assert build_outcomes.main(["--run_dir", str(tmp_path)]) == 1
    assert "table was made with another configuration" in only_line(capsys)


def break_clip(path: Path, how: str) -> None:
    if how == "corrupt":
        path.write_bytes(b"RIFF" + bytes(range(200)))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no samples":
        soundfile.write(path, np.zeros(0), 16_000)
    elif how == "nan":
        soundfile.write(path, np.full(8000, np.nan), 16_000, subtype="FLOAT")
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["corrupt", "empty", "no samples", "nan", "missing"])
def test_a_damaged_clip_is_named(
    how: str, damaged: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_clip(damaged / "adapter-3.wav", how)
    argv = [*tiny, "--data.manifest", str(damaged / "manifest.jsonl"), "--run_dir", str(tmp_path / "run")]
    assert train_stage_a.main(argv) == 1
    told = only_line(capsys)
    assert "adapter-3.wav" in told
    assert ";" in told  # the remedy follows


def test_a_truncated_picture_is_named(
    damaged: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged / "adapter-3.png"
    path.write_bytes(path.read_bytes()[:1000])
    argv = [*tiny, "--data.manifest", str(damaged / "manifest.jsonl"), "--run_dir", str(tmp_path / "run")]
    assert train_stage_a.main(argv) == 1
    assert "adapter-3.png" in only_line(capsys)


def test_a_stereo_clip_of_96_khz_is_read(damaged: Path, tiny: list[str], tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (48_000, 2))
    soundfile.write(damaged / "adapter-3.wav", sound, 96_000)
    argv = [*tiny, "--data.manifest", str(damaged / "manifest.jsonl"), "--run_dir", str(tmp_path / "run")]
    assert train_stage_a.main(argv) == 0


@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_a_training_that_diverges_says_what_to_lower_and_leaves_no_policy(
    agent: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "--total_timesteps 2000 --curriculum.steps 0 --ppo.num_envs 500 --exact.steps 40 --smoothing.trees 0"
    argv = ["--table", str(table), "--run_dir", str(tmp_path / "run"), *quick.split(), "--agent", agent]
    assert train_policy.main([*argv, f"--{agent}.learning_rate", "1e30"]) == 1
    assert re.search(rf"Training diverged, seed 0: .*; lower {agent}\.learning_rate\.", capsys.readouterr().err)
    assert not list((tmp_path / "run").rglob("policy.json"))


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_afterwards(table: Path, tmp_path: Path) -> None:
    """A limit on the size of files makes a write fail in the middle, as a full disk does."""
    quick = "--total_timesteps 2000 --seeds 1 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 500".split()
    argv = ["--table", str(table), "--run_dir", str(tmp_path / "run"), *quick]
    command = [sys.executable, "-m", "safe_rl.train_policy", *argv]
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert full.returncode == 1
    assert "The disk is full" in full.stderr
    assert full.stderr.count("\n") == 1, full.stderr
    assert not list((tmp_path / "run").rglob(".*"))  # no temporary file is left
    assert train_policy.main([*argv, "--resume"]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["seeds"] == [0]


def test_questions_with_damaged_media_are_left_out_only_when_asked_and_counted(
    damaged: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_clip(damaged / "test-3.wav", "corrupt")
    argv = [*tiny, "--data.manifest", str(damaged / "manifest.jsonl"), "--run_dir", str(tmp_path / "run")]
    assert build_outcomes.main(argv) == 1
    assert "test-3.wav" in only_line(capsys)
    assert build_outcomes.main([*argv, "--outcomes.on_error", "skip"]) == 0
    assert "Questions left out: 1; table.json says which and why" in capsys.readouterr().out
