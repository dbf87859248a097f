"""The page on Stage A names what is there: settings, files, keys of the log, and its Python runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from safe_rl.config import RunConfig
from safe_rl.options import options

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "stage_a.md").read_text(encoding="utf-8")
SETTINGS = {name for name, _ in options(RunConfig)}
GROUPS = "stage_a|model|data|outcomes"


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(rf"`((?:{GROUPS})\.[\w.]+)", TEXT))
    assert len(named) >= 50
    groups = {name.rpartition(".")[0] for name in SETTINGS}
    assert named <= SETTINGS | groups


def test_every_setting_of_stage_a_is_explained() -> None:
    settings = {name for name in SETTINGS if name.startswith("stage_a.")} - {"stage_a.steps"}
    assert len(settings) >= 40
    assert settings <= set(re.findall(r"`(stage_a\.[\w.]+)", TEXT))


def test_defaults_that_the_table_of_the_loss_tells_are_those_of_the_settings() -> None:
    told = dict(re.findall(r"^\| `stage_a\.loss\.(\w+)` \| ([\d.]+) \|", TEXT, re.MULTILINE))
    loss = RunConfig().stage_a.loss
    assert {name: float(value) for name, value in told.items()} == {
        name: getattr(loss, name) for name in ("task", "distill", "feature", "fisher", "sparsity")
    }


def test_the_table_of_weights_is_that_of_the_stages() -> None:
    from supervised.stage_a.loss_weights import STAGE_TABLE

    told = {
        name: tuple(float(value) for value in row.split(" | "))
        for name, row in re.findall(r"^\| (task|feature|distill|fisher) \| ([\d. |]+) \|$", TEXT, re.MULTILINE)
    }
    assert told == STAGE_TABLE


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"(?:configs|benchmarks)/[\w./-]+\.(?:yaml|py)", TEXT))
    assert len(named) >= 6
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.slow
def test_a_run_leaves_the_files_and_the_keys_that_the_page_tells(tmp_path: Path) -> None:
    from safe_rl.train_stage_a import main

    settings = (
        "--threads 1 --data.adapter 40 --data.validation 24 --stage_a.steps 4 --stage_a.eval_every 1 "
        "--stage_a.gate_warmup_steps 1 --stage_a.batch_size 8 --stage_a.budgets [4,8] --stage_a.loss.fisher 1 "
        "--model.fusion.kind gated --stage_a.phases [0.25,0.5,0.25] --stage_a.guard.patience 9"
    ).split()
    assert main([*settings, "--run_dir", str(tmp_path / "runs" / "demo")]) == 0
    folder = tmp_path / "runs" / "demo" / "stage_a"
    rows = re.findall(r"^\| (`[^|]+) \|", TEXT.split("`RUN_DIR/stage_a/` has")[1].split("Lines of")[0], re.MULTILINE)
    told = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    left = {path.name for path in folder.iterdir()} - {"tensorboard"}
    assert {re.sub(r"\d{8}", "00001000", name) for name in left} == told - {"base"}  # that of train_base

    keys = TEXT.split("| `kind` | key |")[1].split("```python")[0]
    named = {
        key for row in re.findall(r"^\|[^|]*\|([^|]+)\|", keys, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
    }
    found = {key for line in (folder / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    # Budgets are not for adaptive projectors, which alone have a sparsity term.
    assert found - {"step", "kind", "audio_accuracy_4", "retention_score_4"} == named - {"sparsity_loss"}

    (script,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    shown = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(shown.stdout.splitlines()) == 4
