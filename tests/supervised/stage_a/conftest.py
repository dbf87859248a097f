from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supervised.config import ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.safe_model import SafeModel


@pytest.fixture
def attach(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[[], SafeModel]:
    def make() -> SafeModel:
        torch.manual_seed(0)
        return SafeModel.attach(ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir)))

    return make


@pytest.fixture(params=["decoder", "encoder_decoder"])
def model(request: pytest.FixtureRequest, tiny_base_dir: Path, tiny_t5_dir: Path, tiny_encoder_dir: Path) -> SafeModel:
    base = {"decoder": tiny_base_dir, "encoder_decoder": tiny_t5_dir}[request.param]
    torch.manual_seed(0)
    return SafeModel.attach(ModelConfig(base=str(base), encoder=str(tiny_encoder_dir)))


@pytest.fixture
def llava(tiny_base_dir: Path, tiny_encoder_dir: Path) -> SafeModel:
    torch.manual_seed(0)
    return SafeModel.attach(ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir)))


@pytest.fixture
def lists() -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        sound = Waveform((0.1 * rng.normal(size=9_000 + 900 * i)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        if i % 2:
            samples.append(Sample(f"v{i}", "what colour is the object ?", ("red",), picture, sound, "scenes-vl"))
        else:
            samples.append(Sample(f"a{i}", "which sound can you hear ?", ("dog",), picture, sound))
    return samples
