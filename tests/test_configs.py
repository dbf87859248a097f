"""Every YAML file in configs/ is a complete run that its command reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from safe_rl.config import RunConfig
from safe_rl.options import parse, to_dict

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMAS = {"demo.yaml": RunConfig, "esc10.yaml": RunConfig}


def read(name: str) -> RunConfig:
    return parse(SCHEMAS[name], ["--config", str(CONFIGS / name)], "python -m safe_rl.train_policy", "A run.")


def test_every_file_has_a_schema() -> None:
    assert {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*") if path.is_file()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_file_is_complete(name: str) -> None:
    assert yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")) == to_dict(read(name))


def test_the_demo_is_the_default() -> None:
    assert read("demo.yaml") == RunConfig()


def test_the_recordings_differ_from_the_demo_in_nothing_else() -> None:
    run = RunConfig()
    assert read("esc10.yaml") == replace(run, data=replace(run.data, recordings="ESC-10"), run_dir="runs/esc10")
