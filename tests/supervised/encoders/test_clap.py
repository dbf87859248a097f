from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from supervised.data.sample import Sample, Waveform
from supervised.encoders.clap import ClapEncoder, FastClapExtractor
from supervised.encoders.features import AudioFeatures
from supervised.encoders.loading import load_encoder
from supervised.encoders.windows import BATCH
from supervised.errors import DataError, ModelError


def _clap(folder: Path) -> ClapEncoder:
    encoder = load_encoder(folder)
    assert isinstance(encoder, ClapEncoder)
    return encoder


@pytest.fixture(scope="module")
def encoder(tiny_encoder_dir: Path) -> ClapEncoder:
    return _clap(tiny_encoder_dir)


def _noise(seconds: float, seed: int = 0, rate: int = 16_000) -> Waveform:
    return Waveform(np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate)).astype(np.float32), rate)


def _equal(a: AudioFeatures, b: AudioFeatures) -> bool:
    return torch.equal(a.tokens.view(torch.int32), b.tokens.view(torch.int32)) and torch.equal(a.embedding, b.embedding)


def test_shapes_are_those_it_announces(encoder: ClapEncoder, tiny_samples: list[Sample]) -> None:
    features = encoder([sample.audio for sample in tiny_samples])
    assert encoder.rate == 16_000
    assert features.tokens.shape == (6, encoder.num_tokens, encoder.token_dim) == (6, 64, 16)
    assert features.mask.shape == (6, 64)
    assert features.present.tolist() == [True, True, True, True, False, True]
    assert features.embedding.shape == (6, encoder.embedding_dim) == (6, 8)


def test_tokens_are_the_towers_last_states_with_channels_last(encoder: ClapEncoder) -> None:
    clip = _noise(2.0)
    mel = encoder.extractor(clip.samples, sampling_rate=16_000, return_tensors="pt")["input_features"].float()
    with torch.no_grad():
        states = encoder.model.audio_model(input_features=mel).last_hidden_state  # (1, Da, F, T')
    tokens = encoder([clip]).tokens
    assert torch.equal(tokens[0, 5], states[0].flatten(1)[:, 5])


def test_a_row_without_audio_is_zero_and_absent(encoder: ClapEncoder) -> None:
    features = encoder([None, None])
    assert not features.present.any()
    assert not features.mask.any()
    assert not features.tokens.any()
    assert not features.embedding.any()


def test_features_do_not_depend_on_the_neighbours(encoder: ClapEncoder, tiny_samples: list[Sample]) -> None:
    clips = [sample.audio for sample in tiny_samples]
    together = encoder(clips)
    for row, clip in enumerate(clips):
        assert _equal(together.rows([row]), encoder([clip]))
    assert _equal(together, encoder(clips[::-1]).rows([5, 4, 3, 2, 1, 0]))


def test_a_full_batch_gives_the_bits_of_single_clips(encoder: ClapEncoder) -> None:
    clips = [_noise(0.2 + 0.15 * seed, seed) for seed in range(2 * BATCH + 1)]  # some longer than a window
    together = encoder(clips)
    for row, clip in enumerate(clips):
        assert _equal(together.rows([row]), encoder([clip]))


def test_no_batch_is_used_where_it_would_show(tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = _clap(tiny_encoder_dir)
    tower = encoder._tower
    # A kernel whose rows depend on the batch, as some have: the last bits move with its size.
    monkeypatch.setattr(encoder, "_tower", lambda mel: tuple(x * (1 + 1e-7 * len(mel)) for x in tower(mel)))
    clips = [_noise(1.0, seed) for seed in range(BATCH)]
    assert _equal(encoder(clips).rows([3]), encoder([clips[3]]))


@pytest.mark.parametrize("seconds", [0.001, 0.5, 2.0])
@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_the_fast_extractor_gives_the_bits_of_transformers(seconds: float, truncation: str) -> None:
    from transformers import ClapFeatureExtractor

    settings = {"sampling_rate": 16_000, "max_length_s": 2, "frequency_max": 8000, "truncation": truncation}
    clip = _noise(seconds).samples
    fast, slow = (
        kind(**settings)(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
        for kind in (FastClapExtractor, ClapFeatureExtractor)
    )
    assert fast.dtype == slow.dtype
    assert torch.equal(fast, slow)


@pytest.mark.parametrize("seconds", [0.001, 0.3, 1.9999, 2.0, 2.0001, 3.5, 9.0])
def test_a_clip_of_any_length_is_deterministic_and_finite(encoder: ClapEncoder, seconds: float) -> None:
    clip = _noise(seconds)
    np.random.seed(1)
    first = encoder([clip])
    np.random.seed(2)
    assert _equal(first, encoder([clip]))
    assert torch.isfinite(first.tokens).all()
    assert first.embedding.norm(dim=1).item() == pytest.approx(1.0, abs=1e-5)


def test_a_long_clip_is_the_mean_of_its_windows(encoder: ClapEncoder) -> None:
    clip = _noise(3.0)  # windows of 2 s: at 0 s and at 1 s
    parts = encoder([Waveform(clip.samples[:32_000], 16_000), Waveform(clip.samples[16_000:], 16_000)])
    assert torch.allclose(encoder([clip]).tokens[0], parts.tokens.mean(0), atol=1e-6)


def test_silence_is_finite(encoder: ClapEncoder) -> None:
    features = encoder([Waveform(np.zeros(8000, np.float32), 16_000)])
    assert features.present.all()
    assert torch.isfinite(features.tokens).all()
    assert torch.isfinite(features.embedding).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_is_refused(encoder: ClapEncoder, value: float) -> None:
    clip = _noise(1.0)
    clip.samples[77] = value
    with pytest.raises(DataError, match="NaN or infinite samples"):
        encoder([None, clip])


def test_a_clip_at_another_rate_is_resampled(encoder: ClapEncoder) -> None:
    time = np.arange(48_000) / 48_000
    high = Waveform(np.sin(2 * np.pi * 440 * time).astype(np.float32), 48_000)
    low = Waveform(np.sin(2 * np.pi * 440 * time[::3]).astype(np.float32), 16_000)
    assert torch.nn.functional.cosine_similarity(encoder([high]).embedding, encoder([low]).embedding).item() > 0.99


def test_rows_repeat_in_place_as_beams_do(encoder: ClapEncoder) -> None:
    features = encoder([_noise(1.0), None])
    assert features.repeat(2).present.tolist() == [True, True, False, False]
    both = AudioFeatures.concatenate([features.rows([1]), features.rows([0])])
    assert both.present.tolist() == [False, True]


def test_the_encoder_is_frozen(encoder: ClapEncoder) -> None:
    assert not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_identity_covers_the_extractors_settings(tiny_encoder_dir: Path, tmp_path: Path, encoder: ClapEncoder) -> None:
    shutil.copytree(tiny_encoder_dir, tmp_path / "encoder")
    assert _clap(tmp_path / "encoder").sha256 == encoder.sha256
    settings = tmp_path / "encoder" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"frequency_min": 50', '"frequency_min": 60'))
    assert _clap(tmp_path / "encoder").sha256 != encoder.sha256


def test_a_fused_checkpoint_draws_no_random_numbers(
    tiny_encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    config = ClapConfig.from_pretrained(tiny_encoder_dir)
    config.audio_config.enable_fusion = True
    config.audio_config.fusion_type = "aff_2d"
    ClapModel(config).eval().save_pretrained(tmp_path)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=160, max_length_s=2, frequency_max=8000, truncation="fusion"
    ).save_pretrained(tmp_path)
    encoder = _clap(tmp_path)
    np.random.seed(5)
    expected = str(np.random.get_state())
    # Not even to put the generator back: another thread may look at it in between.
    monkeypatch.setattr(np.random, "randint", lambda *_: pytest.fail("drawn"))
    first = encoder([_noise(1.0), _noise(5.0)])
    assert str(np.random.get_state()) == expected
    assert _equal(first.rows([1]), encoder([_noise(5.0)]))


def test_an_extractor_that_does_not_fit_the_tower_is_refused(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder_dir, tmp_path / "encoder")
    settings = tmp_path / "encoder" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"feature_size": 16', '"feature_size": 32'))
    with pytest.raises(ModelError, match=r"^encoder .* cannot be loaded \([^\n]*\); give a folder[^\n]*$"):
        _clap(tmp_path / "encoder")
