from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from supervised.adapter import Adapter
from supervised.config import FusionConfig, ModelConfig, ProjectorConfig
from supervised.data.sample import Sample, Waveform
from supervised.encoders.ensemble import EnsembleEncoder
from supervised.encoders.features import AudioEncoder, AudioFeatures
from supervised.encoders.joining import JoinedTokens
from supervised.encoders.loading import load_encoder
from supervised.errors import ModelError
from supervised.safe_model import SafeModel


def _features(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> AudioFeatures:
    present = torch.ones(len(tokens), dtype=torch.bool)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
    return AudioFeatures(tokens, mask, present, torch.ones(len(tokens), 1))


def test_an_ensemble_hears_what_each_of_its_encoders_hears(
    tiny_ensemble: AudioEncoder, tiny_encoder_dir: Path, tiny_whisper_dir: Path, noise: Callable[..., Waveform]
) -> None:
    clips = [noise(1.0), None, noise(40.0)]
    clap, whisper = load_encoder(tiny_encoder_dir)(clips), load_encoder(tiny_whisper_dir)(clips)
    features = tiny_ensemble(clips)
    assert tiny_ensemble.parts == ((64, 16), (375, 24))
    assert torch.equal(features.tokens[:, :64, :16], clap.tokens)
    assert not features.tokens[:, :64, 16:].any()
    assert torch.equal(features.tokens[:, 64:], whisper.tokens)
    assert torch.equal(features.mask, torch.cat([clap.mask, whisper.mask], 1))
    assert torch.allclose(features.embedding * 2**0.5, torch.cat([clap.embedding, whisper.embedding], 1))
    assert features.present.tolist() == [True, False, True]


def test_each_encoder_gets_its_own_rate(tiny_ensemble: AudioEncoder, tiny_whisper_dir: Path) -> None:
    time = np.arange(48_000) / 48_000
    clip = Waveform(np.sin(2 * np.pi * 440 * time).astype(np.float32), 48_000)
    whisper = load_encoder(tiny_whisper_dir)
    assert torch.equal(tiny_ensemble([clip]).tokens[:, 64:], whisper([clip]).tokens)
    whisper.rate = 8000
    assert EnsembleEncoder([whisper, load_encoder(tiny_whisper_dir)]).rate == 16_000


def test_identity_is_that_of_all_encoders_in_their_order(
    tiny_ensemble: AudioEncoder, tiny_encoder_dir: Path, tiny_whisper_dir: Path
) -> None:
    clap, whisper = load_encoder(tiny_encoder_dir), load_encoder(tiny_whisper_dir)
    assert EnsembleEncoder([clap, whisper]).sha256 == tiny_ensemble.sha256
    others = {EnsembleEncoder([whisper, clap]).sha256, EnsembleEncoder([clap, clap]).sha256, clap.sha256}
    assert tiny_ensemble.sha256 not in others


@pytest.mark.parametrize("parts", [(), ((5, 3),)])
def test_the_tokens_of_one_encoder_are_joined_to_themselves(parts: tuple[tuple[int, int], ...]) -> None:
    audio = _features(torch.randn(2, 5, 3))
    join = JoinedTokens(parts)
    tokens, mask = join(audio)
    assert tokens is audio.tokens
    assert mask is audio.mask
    assert not join.state_dict()


def test_tokens_of_several_encoders_are_projected_by_a_map_each() -> None:
    join = JoinedTokens(((2, 1), (1, 2)))
    with torch.no_grad():
        join.get_parameter("maps.0.weight").copy_(torch.tensor([[2.0], [3.0]]))
        join.get_parameter("maps.0.bias").copy_(torch.tensor([1.0, 0.0]))
        join.get_parameter("maps.1.weight").copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        join.get_parameter("maps.1.bias").zero_()
    # The first encoder's padding, 99 here, must not be read.
    audio = _features(torch.tensor([[[1.0, 99.0], [2.0, 99.0], [5.0, 7.0]]]), torch.tensor([[True, False, True]]))
    tokens, mask = join(audio)
    assert tokens.tolist() == [[[3.0, 3.0], [5.0, 6.0], [7.0, 5.0]]]
    assert mask.tolist() == [[True, False, True]]


def test_an_adapter_of_one_encoder_has_no_weights_for_joining() -> None:
    adapter = Adapter(ProjectorConfig(tokens=4), FusionConfig(), 6, 0.5, torch.ones(8), ((64, 6),))
    assert not [name for name in adapter.state_dict() if name.startswith("join")]


@pytest.fixture
def ensemble_config(tiny_config: ModelConfig, tiny_whisper_dir: Path) -> ModelConfig:
    return replace(tiny_config, more_encoders=(str(tiny_whisper_dir),))


def test_every_encoders_map_learns_and_both_are_heard(ensemble_config: ModelConfig, tiny_samples: list[Sample]) -> None:
    torch.manual_seed(0)
    model = SafeModel.attach(ensemble_config)
    inputs = model.inputs(tiny_samples[:2])
    audio = model.encode_audio([sample.audio for sample in tiny_samples[:2]])
    model.forward(inputs, audio).logits.float().square().mean().backward()
    for number in range(2):
        gradient = model.adapter.get_parameter(f"join.maps.{number}.weight").grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
    with torch.no_grad():
        heard = model.forward(inputs, audio).logits
        for deaf in (slice(0, 64), slice(64, 439)):
            mask = audio.mask.clone()
            mask[:, deaf] = False
            assert not torch.equal(model.forward(inputs, replace(audio, mask=mask)).logits, heard)
        plain = model.forward(inputs, audio, gate=0.0).logits
        assert torch.equal(plain, model.forward(inputs).logits)


def test_an_adapter_of_an_ensemble_is_saved_and_loaded(
    ensemble_config: ModelConfig, tiny_samples: list[Sample], tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    model = SafeModel.attach(ensemble_config)
    model.save_pretrained(tmp_path)
    loaded = SafeModel.from_pretrained(tmp_path)
    assert loaded.config.more_encoders == ensemble_config.more_encoders
    assert loaded.fit.token_parts == ((64, 16), (375, 24))
    clips = [sample.audio for sample in tiny_samples]
    found, expected = (each.project(each.encode_audio(clips)).spoken for each in (loaded, model))
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)
    with pytest.raises(ModelError, match="give the encoder it was trained on"):
        SafeModel.from_pretrained(tmp_path, more_encoders=[str(tiny_encoder_dir)])
    with pytest.raises(ModelError, match="give the encoder it was trained on"):
        SafeModel.from_pretrained(tmp_path, more_encoders=[])
