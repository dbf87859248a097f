"""The tiny model with inputs and audio of all samples, and how outputs of `generate` are compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.encoders.features import AudioFeatures
from supervised.safe_model import SafeModel

DTYPES = ("float32", "bfloat16")
Setting = tuple[SafeModel, Any, AudioFeatures]


@pytest.fixture(scope="session", params=DTYPES)
def setting(request: pytest.FixtureRequest, tiny_config: ModelConfig, tiny_samples: list[Sample]) -> Setting:
    """Model, inputs and audio of all samples (row 4 has none), in either dtype."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = SafeModel.attach(replace(tiny_config, dtype=request.param))
    assert model.base.dtype == getattr(torch, request.param)
    return model, model.inputs(tiny_samples), model.encode_audio([sample.audio for sample in tiny_samples])


@pytest.fixture
def plain(tiny_model: SafeModel, tiny_samples: list[Sample]) -> Setting:
    """The same in float32 only."""
    audio = tiny_model.encode_audio([sample.audio for sample in tiny_samples])
    return tiny_model, tiny_model.inputs(tiny_samples), audio


@pytest.fixture
def bits() -> Callable[[torch.Tensor], torch.Tensor]:
    """What a tensor of floats is as integers."""
    return _bits


@pytest.fixture
def same_bits() -> Callable[[Any, Any], bool]:
    """Whether two outputs have equal ids and, at every step, logits that are equal as integers."""
    return _same_bits


@pytest.fixture
def base_generate() -> Callable[[SafeModel, Any], Any]:
    """What transformers alone answers."""
    return _base_generate


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def _same_bits(first: Any, second: Any) -> bool:
    return torch.equal(first.sequences, second.sequences) and all(
        torch.equal(_bits(a), _bits(b)) for a, b in zip(first.logits, second.logits, strict=True)
    )


def _base_generate(model: SafeModel, inputs: Any) -> Any:
    return model.base.generate(
        **inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
