"""Runs that go wrong: what the monitor and the guard do about an adapter that overpowers its base."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.errors import CheckpointError, ConfigError, DataError
from supervised.safe_model import SafeModel
from supervised.stage_a.checkpoint import checkpoints
from supervised.stage_a.config import GuardConfig, LossConfig, StageAConfig
from supervised.stage_a.training import StageAResult, train_stage_a

CONFIG = StageAConfig(
    steps=12,
    batch_size=6,
    warmup_steps=0,
    gate_warmup_steps=1,
    eval_every=1,
    eval_samples=12,
    checkpoint_every=1,
    projector_lr=1.0,
    fusion_lr=1.0,
    gate_lr=1.0,
    marker_lr=1.0,
    loss=LossConfig(distill=0.0, feature=0.0),
    guard=GuardConfig(max_drop=1.0, patience=99, on_breach="go_on"),
)
"""At these rates, a thousand times too high, answers repeat themselves after the first step."""
FALLING = replace(
    CONFIG,
    eval_every=2,
    projector_lr=0.003,
    fusion_lr=0.003,
    gate_lr=0.003,
    marker_lr=0.003,
    loss=LossConfig(distill=0.01, feature=0.0),
    guard=GuardConfig(max_drop=1.0, patience=99, breach=0.1, roll_backs=2),
)
"""At these rates the answers stay ordinary, but are soon no longer the base's."""


def attach(base: Path, encoder: Path, **fusion: Any) -> SafeModel:
    torch.manual_seed(0)
    return SafeModel.attach(ModelConfig(base=str(base), encoder=str(encoder), fusion=FusionConfig(**fusion)))


@pytest.fixture
def make(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[[], SafeModel]:
    """Return the tiny model with an adapter that nothing caps or shuts."""
    return lambda: attach(tiny_base_dir, tiny_encoder_dir, kind="lora", rms_match=False)


@pytest.fixture(scope="module")
def questions(tiny_base_dir: Path, tiny_encoder_dir: Path) -> list[Sample]:
    """Six questions that need the sound and six that do not, to which the base's own answer is right."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(100):
        time = np.arange(int(rng.uniform(0.5, 1.5) * 16_000)) / 16_000
        sound = Waveform((0.5 * np.sin(2 * np.pi * rng.uniform(200, 3000) * time)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        samples.append(Sample(f"q{i}", "which sound can you hear ?", ("dog",), picture, sound))
    model = attach(tiny_base_dir, tiny_encoder_dir)
    inputs = model.inputs(samples)
    said = model.decode(model.generate(inputs, max_new_tokens=12), inputs)
    ended = [i for i, text in enumerate(said) if len(text.split()) < 8]  # random weights often find no end
    kept = [replace(samples[i], answers=(said[i],), retention_set="scenes-vl") for i in ended[:6]]
    assert len(kept) == 6
    return [*(sample for i, sample in enumerate(samples) if i not in ended)][:6] + kept


def run(
    model: SafeModel, samples: list[Sample], folder: Path, config: StageAConfig, resume: bool = False
) -> StageAResult:
    return train_stage_a(model, samples, samples, config, folder, resume, progress=False, tracker="none")


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if line["kind"] == kind]


@contextmanager
def crash_in_step(number: int) -> Iterator[None]:
    """Let the run end in its n-th update, after the adapter has moved, as a power cut would."""
    updates = iter(range(1, 100))

    def crash(*_: Any) -> None:
        if next(updates) == number:
            raise RuntimeError("power cut")

    handle = register_optimizer_step_post_hook(crash)
    try:
        with pytest.raises(RuntimeError, match="power cut"):
            yield
    finally:
        handle.remove()


def traces(folder: Path) -> dict[str, bytes]:
    files = [*(folder / "adapter").iterdir(), folder / "metrics.jsonl"]
    return {path.name: path.read_bytes() for path in files}


def test_an_adapter_that_makes_answers_degenerate_ends_the_run_with_the_reason(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(make(), questions, tmp_path, CONFIG)
    found = lines(tmp_path, "evaluation")
    assert [line["step"] for line in found] == [1, 2]  # two evaluations in a row with a warning
    assert all(max(line["looping"], line["empty"]) > 0.05 for line in found)
    assert (result.steps, result.stopped_early) == (2, True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Stage A, step ")]
    assert any(line.startswith("Stage A, step 1: ") for line in told)
    assert result.reason.endswith(".")
    assert all(line.removeprefix("Stage A, step 2: ") in result.reason for line in told if "step 2" in line)
    assert "of the answers" in result.reason
    assert "of the base's 0.0%; lower stage_a.fusion_lr" in result.reason
    assert run(make(), [], tmp_path, CONFIG, resume=True) == result  # it stays ended


def test_a_run_that_forgets_is_rolled_back_so_often_and_then_ended(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(make(), questions, tmp_path, FALLING)
    assert result.base_retention_score == 1.0
    assert [line["step"] for line in lines(tmp_path, "evaluation")] == [2, 4, 6, 8]
    assert (result.steps, result.best_step, result.stopped_early) == (8, 2, True)
    assert result.reason.startswith("retention fell by ")
    assert result.reason.endswith(" points, above stage_a.guard.breach")
    told = [line for line in capsys.readouterr().err.splitlines() if "back to step" in line]
    assert [line.partition(": retention fell by ")[0] for line in told] == ["Stage A, step 4", "Stage A, step 6"]
    assert all(line.endswith(" points: back to step 2; distill x 1.5") for line in told)
    weighted = [line["loss"] - line["task_loss"] for line in lines(tmp_path, "train")]
    distilled = [line["distill_loss"] for line in lines(tmp_path, "train")]
    factors = [a / b for a, b in zip(weighted, distilled, strict=True)]
    assert factors == pytest.approx([0.01] * 4 + [0.015] * 2 + [0.0225] * 2, rel=0.02)


def test_after_a_roll_back_the_values_are_the_best_ones_and_the_moments_are_gone(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path
) -> None:
    with crash_in_step(5):
        run(make(), questions, tmp_path, FALLING)
    [kept] = checkpoints(tmp_path)
    assert kept.name == "checkpoint-00000004"
    tensors = load_file(kept / "state.safetensors")
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    assert len(best) > 5
    assert all(np.array_equal(tensors[f"adapter.{name}"], value) for name, value in best.items())
    assert not [name for name in tensors if name.startswith("exp_avg")]


@pytest.mark.parametrize("step", [4, 5, 6, 7])
def test_a_run_goes_on_bit_for_bit_across_a_roll_back(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path, step: int
) -> None:
    run(make(), questions, tmp_path / "whole", FALLING)
    with crash_in_step(step):
        run(make(), questions, tmp_path / "parts", FALLING)
    run(make(), questions, tmp_path / "parts", FALLING, resume=True)
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")


def test_fisher_information_that_is_lost_in_mid_phase_is_not_measured_anew(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path
) -> None:
    config = replace(FALLING, steps=6, eval_every=6, loss=LossConfig(fisher=1.0), phases=(0.5, 0.5, 0.0))
    with crash_in_step(4):  # the phase's first step was not kept, so that the phase has not begun
        run(make(), questions, tmp_path, config)
    path = tmp_path / "fisher-1.safetensors"
    measured = path.read_bytes()
    path.unlink()
    with crash_in_step(2):
        run(make(), questions, tmp_path, config, resume=True)
    assert path.read_bytes() == measured
    path.unlink()
    with pytest.raises(CheckpointError, match=r"fisher-1\.safetensors is missing, .* has begun; put it back, or start"):
        run(make(), questions, tmp_path, config, resume=True)
    path.write_bytes(measured)
    assert run(make(), questions, tmp_path, config, resume=True).steps == 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"loss": LossConfig(distill=0, feature=0, fisher=1.0)}, r"add some, or set stage_a\.loss\.fisher to 0\.$"),
        (
            {"loss": LossConfig(distill=0, feature=0), "guard": GuardConfig(null_space=0.5)},
            r"add some, or set stage_a\.guard\.null_space to 0\.$",
        ),
    ],
)
def test_what_is_measured_on_retention_questions_needs_some(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train_stage_a(make(), questions[:6], questions, replace(CONFIG, **setting), tmp_path, progress=False)


def test_a_null_space_of_inserted_tokens_is_refused_before_anything_is_read(
    tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    model = attach(tiny_base_dir, tiny_encoder_dir, injection="tokens")
    with pytest.raises(ConfigError, match=r"guard\.null_space is 0\.5, but inserted tokens have no fusion to protect"):
        train_stage_a(model, [], [], replace(CONFIG, guard=GuardConfig(null_space=0.5)), tmp_path, progress=False)


def test_after_a_run_that_failed_every_part_of_the_adapter_may_be_trained_again(
    make: Callable[[], SafeModel], questions: list[Sample], tmp_path: Path
) -> None:
    model = make()
    with crash_in_step(1):
        run(model, questions, tmp_path, replace(CONFIG, phases=(1.0, 0.0, 0.0)))
    assert all(parameter.requires_grad for parameter in model.adapter.parameters())
