"""A tiny model with a quiet adapter, and questions of both kinds that all have clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.diagnostics.questions import Questions, draw
from supervised.safe_model import SafeModel

RATE = 16_000


def make_samples(count: int) -> list[Sample]:
    """Every second question needs its sound; pictures, sounds and prompt lengths differ."""
    rng = np.random.default_rng(5)
    samples = []
    for i in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        time = np.arange(int(rng.uniform(0.3, 1.2) * RATE)) / RATE
        sound = 0.05 * np.sin(2 * np.pi * rng.uniform(100, 4000) * time) + rng.normal(0, 0.01, len(time))
        clip = Waveform(sound.astype(np.float32), RATE)
        if i % 2:
            samples.append(Sample(f"v{i}", "what colour is the dog ?", ("red",), picture, clip, "tiny-vl", "colour"))
        else:
            samples.append(Sample(f"a{i}", "which sound can you hear there ?", ("dog",), picture, clip, type="which"))
    return samples


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    return make_samples(16)


@pytest.fixture(scope="session")
def attach(tiny_config: ModelConfig) -> Callable[..., SafeModel]:
    """Attach a new adapter of the given fusion to the tiny models."""

    def make(**fusion: Any) -> SafeModel:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return SafeModel.attach(replace(tiny_config, fusion=FusionConfig(**fusion)))

    return make


@pytest.fixture(scope="session")
def quiet(attach: Callable[..., SafeModel]) -> SafeModel:
    """A model whose adapter adds 5 %, as a new one does."""
    return attach()


@pytest.fixture(scope="session")
def batches(quiet: SafeModel, samples: list[Sample]) -> list[Questions]:
    return draw(quiet, samples, 16, 6, 0)
