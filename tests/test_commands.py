"""Every command answers --help, and has imported nothing heavy until its arguments are parsed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from safe_rl.config import BridgeRun, DescribeRun, EvaluateRun, PretrainDemoConfig, RunConfig, TuneRun
from supervised.data.importers.config import ImportConfig

ROOT = Path(__file__).parents[1]
VERBS = [
    "build_outcomes",
    "certify",
    "describe",
    "distill",
    "evaluate",
    "import_data",
    "pareto",
    "pretrain_demo",
    "train_bridge",
    "train_policy",
    "train_stage_a",
    "tune",
]
READS = {
    "describe": DescribeRun,
    "evaluate": EvaluateRun,
    "import_data": ImportConfig,
    "pretrain_demo": PretrainDemoConfig,
    "train_bridge": BridgeRun,
    "tune": TuneRun,
}
"""Verb -> what it reads; the others read a RunConfig."""
HEAVY = ["torch", "transformers", "stable_baselines3", "matplotlib", "scipy", "tensorboard", "rich", "tqdm"]
HEAVY += ["sklearn", "optuna", "sqlalchemy", "plotly", "onnx"]


def test_the_verbs_are_the_modules_with_a_main() -> None:
    found = [path.stem for path in (ROOT / "safe_rl").glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")]
    assert sorted(found) == VERBS
    assert len(VERBS) == 12


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_the_command_and_imports_nothing_heavy(verb: str) -> None:
    code = (
        f"import sys; from safe_rl.{verb} import main; code = main(['--help'])\n"
        f"print('loaded:', *(name for name in {HEAVY} if name in sys.modules)); sys.exit(code)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert re.search(rf"^python -m safe_rl\.{verb}( \w+ .*)?$", shown.stdout, re.MULTILINE)
    assert shown.stdout.splitlines()[-1].split() == ["loaded:"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from safe_rl.options import options

    names = [name for name, _ in options(READS.get(verb, RunConfig))]
    assert len(names) >= 10
    assert import_module(f"safe_rl.{verb}").main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split("options:")[1].split())
    for name in names:
        after = shown.split(f"--{name} ", 1)[1].split("(type:", 1)[0].split("{", 1)[-1]
        assert len(after.split()) >= 3, f"{name} says nothing about itself"
