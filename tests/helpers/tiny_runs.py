"""Runs of Stage A on tones and random pictures that take a second, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supervised.data.sample import Sample, Waveform
from supervised.safe_model import SafeModel
from supervised.stage_a.config import GuardConfig, StageAConfig
from supervised.stage_a.training import StageAResult, train_stage_a

CONFIG = StageAConfig(
    steps=7,
    batch_size=4,
    warmup_steps=2,
    gate_warmup_steps=3,
    eval_every=3,
    eval_samples=6,
    checkpoint_every=2,
    guard=GuardConfig(max_drop=1.0, patience=9),
)
TONES = {"dog": 300.0, "rain": 2500.0}


def questions(count: int, seed: int, retention: bool = True) -> list[Sample]:
    """Every second question needs the sound, the others carry it for nothing; lengths of prompts differ."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        name = str(rng.choice(list(TONES)))
        time = np.arange(int(rng.uniform(0.5, 1.5) * 16_000)) / 16_000
        sound = Waveform((0.5 * np.sin(2 * np.pi * TONES[name] * time)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        if retention and i % 2:
            samples.append(Sample(f"v{i}", "what colour is the object ?", ("red",), picture, sound, "scenes-vl"))
        else:
            samples.append(Sample(f"a{i}", "which sound can you hear ?", (name,), picture, sound))
    return samples


def run(model: SafeModel, folder: Path, config: StageAConfig = CONFIG, resume: bool = False) -> StageAResult:
    return train_stage_a(model, questions(12, 0), questions(10, 1), config, folder, resume, progress=False)


def traces(folder: Path) -> tuple[dict[str, bytes], bytes]:
    adapter = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    return adapter, (folder / "metrics.jsonl").read_bytes()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def interrupted(attach: Callable[[], SafeModel], folder: Path, config: StageAConfig = CONFIG) -> None:
    """Leave a run that was interrupted in its fifth step."""
    model, steps = attach(), iter(range(1, 100))

    def count(*_: Any) -> None:
        if torch.is_grad_enabled() and next(steps) == 5:
            raise KeyboardInterrupt

    handle = model.base.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt, match=r"at step 4 of 7"):
        run(model, folder, config)
    handle.remove()
