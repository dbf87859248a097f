from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from safe_rl.describe import main

CONFIGS = Path(__file__).parents[2] / "configs"
LIMITS = {
    "small.yaml": (0.55, 120),
    "medium.yaml": (0.3, 450),
    "large.yaml": (0.25, 1400),
    "llava-1.5-7b.yaml": (0.3, 200),
    "blip2-opt.yaml": (0.25, 150),
    "blip2-flan-t5.yaml": (0.16, 140),
}
"""Configuration -> largest trainable share in percent, largest memory beyond the base in MB."""


def test_the_table_is_aligned_and_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    head, rule, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert head.split()[:3] == ["part", "what", "parameters"]
    assert [row.split()[0] for row in rows] == ["base", "encoder", "projector", "fusion", "markers", "all"]
    end = head.index("parameters") + len("parameters")
    counts = [int(row[:end].split()[-1].replace(",", "")) for row in rows]
    assert sum(counts[:-1]) == counts[-1]
    assert set(rule) == {"-", " "}


@pytest.mark.parametrize("name", LIMITS)
def test_every_configuration_is_described_without_a_download(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("describe went to the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    share, megabytes = LIMITS[name]
    assert main(["--config", str(CONFIGS / name), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in told["components"]] == ["base", "encoder", "projector", "fusion", "markers"]
    assert 0 < 100 * told["trainable_share"] <= share
    assert 0 < told["overhead_mb"] <= megabytes
    assert told["frozen"] == sum(part["frozen"] for part in told["components"])


def test_a_model_of_the_hub_is_read_from_the_hubs_cache(tiny_base_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--somebody--llava"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    (model / "snapshots" / ("0" * 40)).mkdir(parents=True)
    shutil.copy(tiny_base_dir / "config.json", model / "snapshots" / ("0" * 40))
    command = [sys.executable, "-m", "safe_rl.describe", "--model.base", "somebody/llava", "--json"]
    shown = subprocess.run(command, env=os.environ | {"HF_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    base = json.loads(shown.stdout)["components"][0]
    assert (base["origin"], base["what"].split()[0]) == ("hub cache", "somebody/llava")


def test_the_limits_name_every_configuration_but_the_demos() -> None:
    assert set(LIMITS) == {path.name for path in CONFIGS.glob("*.yaml")} - {"demo.yaml", "esc10.yaml"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "bases/small.yaml",
            "describes the making of a base, which this command does not read; start python -m safe_rl.train_bridge "
            "--config {path}, or give a file such as configs/demo.yaml.",
        ),
        (
            "accelerate/cpu.yaml",
            "is a configuration of accelerate; give it as accelerate launch --config_file {path} -m "
            "safe_rl.train_stage_a, and a run as --config after that.",
        ),
    ],
)
def test_a_file_of_another_program_is_told_by_what_it_is(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CONFIGS / name
    assert main(["--config", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path} {message.format(path=path)}\n"


def test_a_base_that_is_trained_is_told_as_trainable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIGS / "baselines" / "naive.yaml"), "--json"]) == 0
    base = json.loads(capsys.readouterr().out)["components"][0]
    assert base["trainable"] > base["frozen"] > 0


def test_what_is_not_on_this_machine_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model.base", "nobody/nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: base 'nobody/nothing' is not on this machine")
    assert error.count("\n") == 1
