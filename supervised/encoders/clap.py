"""CLAP through transformers: the audio half of a `ClapModel` with the feature extractor of the same checkpoint.

A clip is up to one window long (10 s in LAION's checkpoints), which the extractor fills by repetition, or longer: then
the tokens of its windows are averaged. So every clip has the same number of tokens, and the extractor never crops at
random (LAION-AI/CLAP#166). The embedding is CLAP's own, in the space that it shares with text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor
from transformers.audio_utils import power_to_db, window_function

from supervised.base import freeze
from supervised.encoders.windows import Tensors, WindowedEncoder, identity

FRAMING = "windows, mean of tokens, v1"
EXTRACTOR_FIELDS = (
    "feature_size",
    "sampling_rate",
    "hop_length",
    "fft_window_size",
    "nb_max_samples",
    "frequency_min",
    "frequency_max",
    "top_db",
    "truncation",
    "padding",
)


class ClapEncoder(WindowedEncoder):
    """CLAP's audio tower and projection, frozen."""

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__(int(extractor.sampling_rate), int(extractor.nb_max_samples))
        self.model = freeze(model)
        self.extractor = extractor
        self.fused = bool(model.config.enable_fusion)
        with torch.no_grad():
            tokens, embedding = self._tower(*self._prepare(np.zeros(self.window, np.float32)))
        _, self.num_tokens, self.token_dim = tokens.shape
        self.embedding_dim = embedding.shape[1]
        self.sha256 = identity(model, extractor, EXTRACTOR_FIELDS, FRAMING)

    @classmethod
    def from_pretrained(cls, path: str, revision: str) -> ClapEncoder:
        """Load the audio half of a checkpoint; errors are those of transformers, see `loading.load_encoder`."""
        model, report = ClapAudioHalf.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, revision=revision
        )
        require_all(report)
        return cls(model, FastClapExtractor.from_pretrained(path, revision=revision))

    def _prepare(self, samples: np.ndarray) -> Tensors:
        """Return the spectrogram (1, C, frames, mels) of at most one window; C = 4 when fused, else 1."""
        with np.errstate(over="ignore", invalid="ignore"):  # a clip that overflows is refused by its features
            features = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        return (features["input_features"].to(self.device, torch.float32),)

    def _tower(self, *inputs: Tensor) -> Tensors:
        """Return tokens (W, T, Da) and embeddings (W, De) of spectrograms (W, C, frames, mels)."""
        (mel,) = inputs
        longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=mel.device) if self.fused else None
        output = self.model(input_features=mel, is_longer=longer)
        tokens = output.last_hidden_state.flatten(2).transpose(1, 2)  # (W, Da, F, T') -> (W, T, Da)
        return tokens, nn.functional.normalize(output.audio_embeds, dim=-1)

    def _clip(self, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return mean_of_windows(*outputs)


class ClapAudioHalf(ClapAudioModelWithProjection):
    """Audio tower and projection, read from a checkpoint of both halves."""

    # Or transformers reports the other half, weight by weight.
    _keys_to_ignore_on_load_unexpected = ("^text_", "^logit_scale")


class FastClapExtractor(ClapFeatureExtractor):
    """The same spectrograms, bit for bit, from one FFT over all frames instead of one per frame, and nothing drawn."""

    def _get_input_mel(self, *arguments: Any) -> tuple[np.ndarray, bool]:
        """Return the spectrograms of a clip, and that it is longer than a window, though none is.

        Else the extractor of a fused checkpoint would draw which one to call so, from the generator of all threads.
        """
        mel, _ = super()._get_input_mel(*arguments)
        return mel, True

    def _np_extract_fbank_features(self, waveform: np.ndarray, mel_filters: np.ndarray) -> np.ndarray:
        """Return the log-mel spectrogram, float32 (frames, mels), of samples (n,)."""
        length = self.fft_window_size
        padded = np.pad(waveform, length // 2, mode="reflect").astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(padded, length)[:: self.hop_length]  # (frames, length)
        spectrum = np.fft.rfft(frames * window_function(length, "hann")).astype(np.complex64)  # (frames, bins)
        power = np.abs(spectrum, dtype=np.float64) ** 2.0
        mel = np.maximum(1e-10, np.dot(mel_filters.T, power.T))  # (mels, frames)
        return np.asarray(power_to_db(mel), np.float32).T


def mean_of_windows(tokens: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (T, Da), mask (T,) and embedding (De,) of a clip from windows (W, T, Da) and (W, De)."""
    everywhere = torch.ones(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return tokens.mean(0), everywhere, nn.functional.normalize(embedding.mean(0), dim=0)


def require_all(report: dict[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights, by transformers' report on its loading.

    Raises:
        ValueError: how many, and one of them.
    """
    if report["missing_keys"]:
        raise ValueError(f"it lacks {len(report['missing_keys'])} weights, e.g. {min(report['missing_keys'])}")
