from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel

from supervised.data.sample import Waveform
from supervised.encoders.loading import load_encoder
from supervised.encoders.whisper import WhisperEncoder, pool_frames
from supervised.errors import ModelError


@pytest.fixture(scope="module")
def encoder(tiny_whisper_dir: Path) -> WhisperEncoder:
    encoder = load_encoder(tiny_whisper_dir)
    assert isinstance(encoder, WhisperEncoder)
    return encoder


def test_half_a_minute_has_375_tokens_of_the_encoders_width(encoder: WhisperEncoder) -> None:
    assert (encoder.rate, encoder.window) == (16_000, 480_000)
    assert encoder.parts == ((375, 24),)
    assert encoder.embedding_dim == 24


def test_tokens_are_means_of_four_frames_of_transformers_own_encoder(
    encoder: WhisperEncoder, tiny_whisper_dir: Path, noise: Callable[..., Waveform]
) -> None:
    clip = noise(3.0)
    whole = WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir).eval()
    mel = encoder.extractor(clip.samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        frames = whole.get_encoder()(mel).last_hidden_state[0]  # (1500, 24)
    features = encoder([clip])
    # 3 s are 150 frames: 37 tokens of four, and one of the two that are left.
    assert features.mask[0].tolist() == [True] * 38 + [False] * 337
    for token in range(37):
        assert torch.allclose(features.tokens[0, token], frames[4 * token : 4 * token + 4].mean(0), atol=1e-6)
    assert torch.allclose(features.tokens[0, 37], frames[148:150].mean(0), atol=1e-6)
    assert not features.tokens[0, 38:].any()
    expected = torch.nn.functional.normalize(frames[:150].mean(0), dim=0)
    assert torch.allclose(features.embedding[0], expected, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 480_000))
def test_the_mask_ends_with_the_clip(encoder: WhisperEncoder, length: int) -> None:
    features = encoder([Waveform(np.full(length, 0.1, np.float32), 16_000)])
    columns = -(-length // 160)  # of the spectrogram: 10 ms each
    frames = -(-columns // 2)
    assert features.mask.sum().item() == -(-frames // 4)


def test_what_lies_beyond_the_clip_is_left_out_though_the_encoder_sees_it(
    encoder: WhisperEncoder, noise: Callable[..., Waveform]
) -> None:
    assert encoder([noise(3.0)]).mask.sum().item() == 38
    assert encoder([noise(30.0)]).mask.all()


def test_a_long_clip_keeps_the_order_of_its_windows(encoder: WhisperEncoder, noise: Callable[..., Waveform]) -> None:
    clip = noise(60.0)
    first, second = (
        encoder([Waveform(clip.samples[start : start + 480_000], 16_000)]).tokens[0] for start in (0, 480_000)
    )
    pairs = torch.cat([first, second]).unflatten(0, (375, 2)).mean(1)  # eight frames to a token instead of four
    features = encoder([clip])
    assert features.mask.all()
    assert torch.allclose(features.tokens[0], pairs, atol=1e-6)


def test_a_clip_just_above_a_window_is_covered_by_two_that_overlap(
    encoder: WhisperEncoder, noise: Callable[..., Waveform]
) -> None:
    clip = noise(31.0)
    first, second = (
        encoder([Waveform(part, 16_000)]).tokens[0] for part in (clip.samples[:480_000], clip.samples[-480_000:])
    )
    pairs = torch.cat([first, second]).unflatten(0, (375, 2)).mean(1)
    assert torch.allclose(encoder([clip]).tokens[0], pairs, atol=1e-6)


def test_frames_are_pooled_without_those_that_do_not_count() -> None:
    frames = torch.tensor([[1.0], [3.0], [5.0], [torch.nan], [7.0]])
    tokens, mask = pool_frames(frames, torch.tensor([True, True, True, False, False]), 2)
    # (1 + 3) / 2 = 2;  5 alone;  none
    assert tokens.flatten().tolist() == [2.0, 5.0, 0.0]
    assert mask.tolist() == [True, True, False]


def test_only_the_encoder_is_loaded_from_either_kind_of_checkpoint(
    encoder: WhisperEncoder, tiny_whisper_dir: Path, tmp_path: Path, noise: Callable[..., Waveform]
) -> None:
    whole = WhisperForConditionalGeneration.from_pretrained(tiny_whisper_dir)
    whole.model.save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    bare = load_encoder(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [WhisperModel.__name__]
    assert bare.sha256 == encoder.sha256
    assert torch.equal(bare([noise(1.0)]).tokens, encoder([noise(1.0)]).tokens)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == sum(parameter.numel() for parameter in whole.get_encoder().parameters())


def test_noise_that_an_extractor_would_add_is_left_out(
    tiny_whisper_dir: Path, tmp_path: Path, encoder: WhisperEncoder, noise: Callable[..., Waveform]
) -> None:
    shutil.copytree(tiny_whisper_dir, tmp_path / "encoder")
    WhisperFeatureExtractor(dither=0.1).save_pretrained(tmp_path / "encoder")
    dithered = load_encoder(tmp_path / "encoder")
    assert torch.equal(dithered([noise(1.0)]).tokens, encoder([noise(1.0)]).tokens)


def test_identity_covers_weights_and_extractor(tiny_whisper_dir: Path, tmp_path: Path, encoder: WhisperEncoder) -> None:
    shutil.copytree(tiny_whisper_dir, tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").sha256 == encoder.sha256
    WhisperFeatureExtractor(n_fft=512).save_pretrained(tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").sha256 != encoder.sha256
    shutil.copy(tiny_whisper_dir / "preprocessor_config.json", tmp_path / "encoder")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        model.model.encoder.layer_norm.bias += 1
    model.save_pretrained(tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").sha256 != encoder.sha256


def test_an_extractor_that_does_not_fit_the_tower_is_refused(tiny_whisper_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_whisper_dir, tmp_path / "encoder")
    WhisperFeatureExtractor(chunk_length=20).save_pretrained(tmp_path / "encoder")
    with pytest.raises(
        ModelError, match=r"^encoder .* cannot be loaded \(Whisper expects[^\n]*\); give a folder[^\n]*$"
    ):
        load_encoder(tmp_path / "encoder")
