from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from supervised.base import weights_sha256
from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.encoders.features import AudioFeatures
from supervised.encoders.windows import WindowedEncoder
from supervised.safe_model import SafeModel

Setting = tuple[SafeModel, Any, AudioFeatures]
Bits = Callable[[torch.Tensor], torch.Tensor]
SameBits = Callable[[Any, Any], bool]
BaseGenerate = Callable[[SafeModel, Any], Any]


@pytest.fixture
def fresh(tiny_config: ModelConfig) -> SafeModel:
    """A model to train."""
    torch.manual_seed(4)
    return SafeModel.attach(tiny_config)


def _train(model: SafeModel, samples: list[Sample], steps: int, lr: float) -> list[float]:
    """Teach the model to name the sound of four samples; the base knows nothing about them."""
    samples = samples[:4]
    inputs, audio = model.inputs(samples), model.encode_audio([sample.audio for sample in samples])
    words = model.processor.tokenizer.convert_tokens_to_ids(["dog", "rain", "sea", "clock"])
    trained = [parameter for parameter in model.adapter.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr)
    losses = []
    for _ in range(steps):
        logits = model.forward(inputs, audio, logits_to_keep=1).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(words))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_gradients_reach_every_part_of_the_adapter_and_nothing_else(
    fresh: SafeModel, tiny_samples: list[Sample]
) -> None:
    before = weights_sha256(fresh.base)
    frozen = {name: p.clone() for name, p in fresh.adapter.named_parameters() if not p.requires_grad}
    _train(fresh, tiny_samples, steps=2, lr=1e-3)
    for name, parameter in fresh.adapter.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert torch.equal(parameter, frozen[name])
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name  # LoRA's A gets its first one in step 2
    assert all(parameter.grad is None for parameter in fresh.base.parameters())
    assert isinstance(fresh.encoder, WindowedEncoder)
    assert all(parameter.grad is None for parameter in fresh.encoder.parameters())
    assert weights_sha256(fresh.base) == before == fresh.fit.base_sha256


def test_training_teaches_the_frozen_base_to_name_sounds(
    fresh: SafeModel, tiny_samples: list[Sample], same_bits: SameBits, base_generate: BaseGenerate
) -> None:
    losses = _train(fresh, tiny_samples, steps=60, lr=1e-2)
    assert losses[-1] < 0.2 < 2.0 < losses[0]
    samples = tiny_samples[:4]
    inputs, audio = fresh.inputs(samples), fresh.encode_audio([sample.audio for sample in samples])
    assert fresh.decode(fresh.generate(inputs, audio, max_new_tokens=1), inputs) == ["dog", "rain", "sea", "clock"]
    assert same_bits(fresh.generate(inputs), base_generate(fresh, inputs))


def test_attaching_with_the_same_seed_gives_the_same_adapter(tiny_config: ModelConfig) -> None:
    hashes = set()
    for _ in range(2):
        torch.manual_seed(11)
        hashes.add(SafeModel.attach(tiny_config).fingerprint()["adapter"])
    assert len(hashes) == 1
