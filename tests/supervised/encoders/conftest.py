"""Tiny random encoders on disk: beside the CLAP of all tests a Whisper with its real 30 s feature extractor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from supervised.data.sample import Waveform

if TYPE_CHECKING:
    import torch
    from transformers import WhisperConfig

    from supervised.encoders.features import AudioEncoder, AudioFeatures

Noise = Callable[..., Waveform]
Equal = Callable[["AudioFeatures", "AudioFeatures"], bool]


def whisper_config() -> WhisperConfig:
    from transformers import WhisperConfig

    return WhisperConfig(
        vocab_size=32,
        d_model=24,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


@pytest.fixture(scope="session")
def tiny_whisper_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WhisperForConditionalGeneration of width 24 with the extractor of the real ones: 16 kHz, 30 s, 80 mels."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("whisper")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        WhisperForConditionalGeneration(whisper_config()).eval().save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_ensemble(tiny_encoder_dir: Path, tiny_whisper_dir: Path) -> AudioEncoder:
    """CLAP, 64 tokens of width 16, and Whisper, 375 tokens of width 24."""
    from supervised.encoders.loading import load_encoders

    return load_encoders(str(tiny_encoder_dir), None, [str(tiny_whisper_dir)])


@pytest.fixture(scope="session")
def noise() -> Noise:
    """Make noise of some seconds."""

    def make(seconds: float, seed: int = 0, rate: int = 16_000) -> Waveform:
        samples = np.random.default_rng(seed).normal(0, 0.1, max(1, int(seconds * rate)))
        return Waveform(samples.astype(np.float32), rate)

    return make


@pytest.fixture(scope="session")
def equal() -> Equal:
    """Compare features bit for bit."""
    import torch

    def bits(values: torch.Tensor) -> torch.Tensor:
        return values.contiguous().view(torch.int32)

    def compare(a: AudioFeatures, b: AudioFeatures) -> bool:
        return (
            torch.equal(bits(a.tokens), bits(b.tokens))
            and torch.equal(bits(a.embedding), bits(b.embedding))
            and torch.equal(a.mask, b.mask)
            and torch.equal(a.present, b.present)
        )

    return compare
