"""Every YAML file in configs/ is a complete run that its command reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from safe_rl.config import BridgeRun, RunConfig
from safe_rl.options import parse, to_dict

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = ("demo", "esc10", "small", "medium", "large", "llava-1.5-7b", "blip2-opt", "blip2-flan-t5")
BASELINES = ("concatenation", "naive", "silent")
SCHEMAS = {f"{name}.yaml": RunConfig for name in (*RUNS, *(f"baselines/{name}" for name in BASELINES))} | {
    f"bases/{name}.yaml": BridgeRun for name in ("small", "medium")
}
LARGE = ("medium", "large", "llava-1.5-7b", "blip2-opt", "blip2-flan-t5")
"""Runs with a base of billions of parameters."""


def read(name: str) -> Any:
    return parse(SCHEMAS[name], ["--config", str(CONFIGS / name)], "python -m safe_rl.train_policy", "A run.")


def test_every_file_has_a_schema() -> None:
    files = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*") if path.is_file()}
    runs = {path.as_posix() for path in files if path.parts[0] != "accelerate"}  # those are accelerate's own
    assert runs == set(SCHEMAS)
    assert len(SCHEMAS) == 13


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_file_is_complete(name: str) -> None:
    assert yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")) == to_dict(read(name))


def test_the_demo_is_the_default() -> None:
    assert read("demo.yaml") == RunConfig()


def test_the_recordings_differ_from_the_demo_in_nothing_else() -> None:
    run = RunConfig()
    assert read("esc10.yaml") == replace(run, data=replace(run.data, recordings="ESC-10"), run_dir="runs/esc10")


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("demo", "esc10")])
def test_the_others_differ_from_the_demo_in_the_model_and_in_what_follows_from_it(name: str) -> None:
    demo, run = RunConfig(), read(f"{name}.yaml")
    expected = replace(
        demo,
        model=run.model,
        stage_a=run.stage_a if name in LARGE else demo.stage_a,
        data=replace(demo.data, hold_out=10_000 if name in LARGE else 0),
        outcomes=replace(demo.outcomes, batch_size=8),
        threads=4,
        run_dir=f"runs/{name}",
    )
    assert run == expected
    assert run.model.projector == demo.model.projector
    assert run.model.fusion == replace(demo.model.fusion, scope=run.model.fusion.scope)


def test_baselines_differ_from_the_demo_in_what_they_are_named_for() -> None:
    demo = RunConfig()
    silent, concatenation, naive = (read(f"baselines/{name}.yaml") for name in ("silent", "concatenation", "naive"))
    assert silent.data.preprocess.silence
    assert replace(silent, data=demo.data, run_dir=demo.run_dir) == demo
    assert concatenation.model.fusion.injection == naive.model.fusion.injection == "tokens"
    assert replace(concatenation, model=demo.model, run_dir=demo.run_dir) == demo
    assert naive.stage_a.train_base
    loss = replace(demo.stage_a.loss, distill=0.0, feature=0.0, fisher=0.0)
    assert replace(naive.stage_a, train_base=False) == replace(demo.stage_a, loss=loss)


@pytest.mark.parametrize("name", LARGE)
def test_large_bases_are_trained_as_the_fields_of_stage_a_say(name: str) -> None:
    stage_a = read(f"{name}.yaml").stage_a
    rates = (stage_a.projector_lr, stage_a.fusion_lr, stage_a.gate_lr, stage_a.marker_lr)
    assert rates == (1e-4, 5e-5, 5e-4, 1e-4)
    assert stage_a.gate_warmup_steps == 2000
    assert stage_a.steps > stage_a.gate_warmup_steps > stage_a.warmup_steps


@pytest.mark.parametrize("name", ["small", "medium"])
def test_the_bases_that_are_made_lie_where_their_runs_look_for_them(name: str) -> None:
    bridge = read(f"bases/{name}.yaml")
    assert read(f"{name}.yaml").model.base == f"{bridge.run_dir}/bridge/base"
    assert bridge == replace(
        BridgeRun(),
        language_model=bridge.language_model,
        vision_model=bridge.vision_model,
        device=bridge.device,
        threads=4,
        run_dir=f"runs/bases/{name}",
    )
