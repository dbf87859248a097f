"""Commands in README and docs exist, and their options parse."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from safe_rl.config import BridgeRun, DescribeRun, EvaluateRun, PretrainDemoConfig, RunConfig, TuneRun
from safe_rl.import_data import named
from safe_rl.options import parse
from supervised.data.importers.config import ImportConfig

ROOT = Path(__file__).parents[1]
FILES = {
    "README.md": 3,
    "docs/bases.md": 2,
    "docs/budgets.md": 2,
    "docs/certificates.md": 1,
    "docs/commands.md": 12,
    "docs/configurations.md": 4,
    "docs/datasets.md": 15,
    "docs/deployment.md": 3,
    "docs/diagnostics.md": 2,
    "docs/encoders.md": 5,
    "docs/fusion.md": 1,
    "docs/learning.md": 1,
    "docs/outcome_table.md": 1,
    "docs/soundscenes.md": 1,
    "docs/stage_a.md": 6,
    "docs/tuning.md": 1,
}
"""File -> commands it holds at least."""
READS = {
    "describe": DescribeRun,
    "evaluate": EvaluateRun,
    "import_data": ImportConfig,
    "pretrain_demo": PretrainDemoConfig,
    "train_bridge": BridgeRun,
    "tune": TuneRun,
}
"""Verb -> what it reads; the others read a RunConfig."""


def commands(name: str) -> list[list[str]]:
    """Return verb and options of every command line in a file's code, comments left out."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"python -m safe_rl\.(\w+)([^`\n]*)", text)
    return [[verb, *shlex.split(rest.partition(" && ")[0].rstrip("\\"), comments=True)] for verb, rest in found]


def test_every_page_of_the_documentation_is_checked_or_holds_no_command() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} | {"README.md"}
    assert {name for name in pages if commands(name)} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_command_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = commands(name)
    assert len(found) >= FILES[name]
    for verb, *argv in found:
        assert (ROOT / "safe_rl" / f"{verb}.py").is_file(), verb
        if {"--help", "--print_config"} & set(argv) or any(each.startswith("runs/demo/tune/") for each in argv):
            continue  # the last: what a command before it has written
        argv = named(argv) if verb == "import_data" else argv  # its first word may be the dataset
        parse(READS.get(verb, RunConfig), argv, f"python -m safe_rl.{verb}", "")


def test_the_readme_has_the_two_make_targets_and_the_plain_way() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test", "pip install -e ."):
        assert command in text


def test_the_table_written_by_the_documentation_trains_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safe_rl.train_policy import main

    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "outcome_table.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", script], check=True)
    quick = "--total_timesteps 2000 --seeds 1 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 500".split()
    assert main(["--table", "my_table", "--run_dir", "run", *quick]) == 0


def test_the_python_of_the_learning_page_runs() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "learning.md").read_text(), re.DOTALL)
    script = script.replace("runs/demo/table", str(ROOT / "envs" / "sample_table"))
    shown = subprocess.run(
        [sys.executable, "-c", script + "\nprint(len(multipliers), policy.actions)"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # small networks: a second thread would only wait
    )
    assert shown.stdout == "1 ('skip', 'use')\n", shown.stderr


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    from supervised.config import DataConfig
    from supervised.data.manifest import write_manifest
    from supervised.data.sample import Waveform
    from supervised.demo import BASE, ENCODER
    from supervised.demo.scenes import SoundScenes

    samples = []
    for sample in SoundScenes(DataConfig(), "test")[:2]:
        assert isinstance(sample.image, Image.Image)
        assert isinstance(sample.audio, Waveform)
        picture, clip = tmp_path / f"{sample.id}.png", tmp_path / f"{sample.id}.flac"
        sample.image.save(picture)
        soundfile.write(clip, sample.audio.samples, sample.audio.rate)
        samples.append(replace(sample, image=picture, audio=clip))
    write_manifest(tmp_path / "questions.jsonl", samples)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    told = []
    for block in blocks:
        script = block.replace("path/to/llava", str(BASE)).replace("path/to/clap", str(ENCODER))
        ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        told.append(ran.stdout)
    reward, cost = told[0].split(" ", 1)
    assert float(reward) <= 1
    assert cost.startswith("[")
    assert len(ast.literal_eval(told[1])) == 2
