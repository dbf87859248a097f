"""What holds for every encoder: a clip's features depend on the clip alone, and on all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from supervised.data.sample import Waveform
from supervised.encoders.cache import FeatureCache
from supervised.encoders.features import AudioEncoder, AudioFeatures
from supervised.encoders.loading import load_encoder
from supervised.errors import DataError

KINDS = ("clap", "whisper", "ensemble")


@pytest.fixture(scope="module", params=KINDS)
def encoder(
    request: pytest.FixtureRequest, tiny_encoder_dir: Path, tiny_whisper_dir: Path, tiny_ensemble: AudioEncoder
) -> AudioEncoder:
    if request.param == "ensemble":
        return tiny_ensemble
    return load_encoder(tiny_encoder_dir if request.param == "clap" else tiny_whisper_dir)


def _random_state() -> str:
    return str(np.random.get_state()) + str(torch.random.get_rng_state())


def test_shapes_are_those_it_announces(encoder: AudioEncoder, noise: Callable[..., Waveform]) -> None:
    features = encoder([noise(1.0), None, noise(3.0)])
    assert features.tokens.shape == (3, encoder.num_tokens, encoder.token_dim)
    assert features.mask.shape == (3, encoder.num_tokens)
    assert features.embedding.shape == (3, encoder.embedding_dim)
    assert features.present.tolist() == [True, False, True]
    assert sum(count for count, _ in encoder.parts) == encoder.num_tokens
    assert max(width for _, width in encoder.parts) == encoder.token_dim


@settings(max_examples=12, deadline=None)
@given(length=st.integers(1, 80_000), seed=st.integers(0, 9))
def test_a_clip_of_any_length_is_deterministic_and_finite(
    encoder: AudioEncoder,
    equal: Callable[[AudioFeatures, AudioFeatures], bool],
    length: int,
    seed: int,
) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.2, length).astype(np.float32)
    np.random.seed(seed)
    torch.manual_seed(seed)
    before = _random_state()
    first = encoder([Waveform(samples, 16_000)])
    assert _random_state() == before  # nothing was drawn
    np.random.seed(seed + 1)
    torch.manual_seed(seed + 1)
    assert equal(first, encoder([Waveform(samples.copy(), 16_000)]))
    assert torch.isfinite(first.tokens).all()
    assert first.mask.any()
    assert not first.tokens[~first.mask].any()
    assert first.embedding.norm(dim=1).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seconds", [30.0, 30.01, 61.0])
def test_a_long_clip_is_deterministic_and_finite(
    encoder: AudioEncoder,
    noise: Callable[..., Waveform],
    equal: Callable[[AudioFeatures, AudioFeatures], bool],
    seconds: float,
) -> None:
    first = encoder([noise(seconds)])
    assert equal(first, encoder([noise(seconds)]))
    assert torch.isfinite(first.tokens).all()
    assert first.mask.all()


def test_features_do_not_depend_on_the_neighbours(
    encoder: AudioEncoder,
    noise: Callable[..., Waveform],
    equal: Callable[[AudioFeatures, AudioFeatures], bool],
) -> None:
    clips: list[Waveform | None] = [
        noise(0.1 + 0.3 * seed, seed) for seed in range(17)
    ]  # more than go through a tower together
    clips[5:5] = [None]
    together = encoder(clips)
    for row, clip in enumerate(clips):
        assert equal(together.rows([row]), encoder([clip]))
    assert equal(together, encoder(clips[::-1]).rows(list(range(17, -1, -1))))


def test_cached_features_are_those_of_the_encoder(
    encoder: AudioEncoder,
    noise: Callable[..., Waveform],
    equal: Callable[[AudioFeatures, AudioFeatures], bool],
    tmp_path: Path,
) -> None:
    clips = [noise(1.0), None, noise(31.0, 1), noise(0.001, 2), noise(1.0)]
    expected = encoder(clips)
    cache = FeatureCache(tmp_path)
    assert equal(cache.encode(encoder, clips), expected)  # made
    assert len(list(tmp_path.rglob("*.features"))) == 3
    assert equal(cache.encode(encoder, clips[::-1]), expected.rows([4, 3, 2, 1, 0]))  # read


def test_the_end_of_a_clip_counts(encoder: AudioEncoder, noise: Callable[..., Waveform]) -> None:
    clip = noise(65.0)
    other = clip.samples.copy()
    other[-1600:] *= -3
    assert not torch.equal(encoder([clip]).tokens, encoder([Waveform(other, 16_000)]).tokens)


def test_silence_is_finite(encoder: AudioEncoder) -> None:
    features = encoder([Waveform(np.zeros(8000, np.float32), 16_000)])
    assert torch.isfinite(features.tokens).all()
    assert torch.isfinite(features.embedding).all()


def test_a_clip_that_is_not_finite_is_refused(encoder: AudioEncoder, noise: Callable[..., Waveform]) -> None:
    clip = noise(1.0)
    clip.samples[77] = np.nan
    with pytest.raises(DataError, match="NaN or infinite samples"):
        encoder([None, clip])


def test_a_clip_whose_features_are_not_finite_is_refused(encoder: AudioEncoder) -> None:
    loud = Waveform(np.full(16_000, 1e38, np.float32) * np.sign(np.sin(np.arange(16_000.0))).astype(np.float32), 16_000)
    with pytest.raises(DataError, match=r"too loud to be encoded .* scale it to \+-1"):
        encoder([loud])


def test_nothing_of_it_can_be_trained(encoder: AudioEncoder) -> None:
    assert isinstance(encoder, torch.nn.Module)
    towers = [module for module in encoder.modules() if isinstance(module, PreTrainedModel)]
    assert towers
    assert not any(tower.training for tower in towers)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
