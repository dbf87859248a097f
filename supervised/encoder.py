"""The frozen audio encoder: clips in, tokens and one embedding per clip out; a clip's features depend on it alone.

Backend: the audio half of a transformers `ClapModel` with the feature extractor of the same checkpoint. A clip of up
to one window (10 s in LAION's checkpoints) is padded to it by the extractor; a longer one is covered by windows of
that length, the first at its start, the last at its end, equally spaced, and the windows' tokens are averaged. So
every clip has the same number of tokens, and the extractor never crops at random (LAION-AI/CLAP#166). Batched kernels
may differ in the last bits from single ones: windows share a batch only of one size, and only where that was tried
and gave each window the bits it has alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supervised.base import LOAD_ERRORS, first_line, freeze, locate, weights_sha256
from supervised.data.media import read_waveform
from supervised.data.sample import Waveform
from supervised.errors import DataError, ModelError

FRAMING = "windows, mean of tokens, v1"
BATCH = 16
"""Windows that go through the tower together, where that does not show."""
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


@dataclass(frozen=True)
class AudioFeatures:
    """What the encoder heard, a row per question; rows without audio are zero and not `present`."""

    tokens: Tensor
    """float32 (B, T, Da)."""
    mask: Tensor
    """bool (B, T): True where a token counts."""
    present: Tensor
    """bool (B,): True where there was a clip."""
    embedding: Tensor
    """float32 (B, De): pooled, projected into the space shared with text, of length 1."""
    spoken: Tensor | None = None
    """float32 (B, k, D): the projector's tokens, where `SafeModel.project` has made them."""

    def __len__(self) -> int:
        return len(self.present)

    def rows(self, index: Tensor | Sequence[int] | slice) -> AudioFeatures:
        """Return the rows at `index`."""
        if not isinstance(index, (slice, Tensor)):
            index = torch.as_tensor(index, dtype=torch.long, device=self.present.device)
        return self._each(lambda values: values[index])

    def repeat(self, times: int) -> AudioFeatures:
        """Return every row `times` times in place, as `generate` does for beams."""
        if times == 1:
            return self
        return self.rows(torch.arange(len(self), device=self.present.device).repeat_interleave(times))

    def to(self, device: torch.device | str) -> AudioFeatures:
        """Return the features on `device`."""
        return self._each(lambda values: values.to(device))

    @staticmethod
    def concatenate(parts: Sequence[AudioFeatures]) -> AudioFeatures:
        """Return the rows of all `parts`, which come from one encoder; `spoken` is left behind."""
        return AudioFeatures(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.mask for part in parts]),
            torch.cat([part.present for part in parts]),
            torch.cat([part.embedding for part in parts]),
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> AudioFeatures:
        spoken = None if self.spoken is None else change(self.spoken)
        return AudioFeatures(
            change(self.tokens), change(self.mask), change(self.present), change(self.embedding), spoken
        )


class ClapEncoder(nn.Module):
    """CLAP's audio tower and projection, frozen."""

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__()
        self.model = freeze(model)
        self.extractor = extractor
        self.rate = int(extractor.sampling_rate)
        """Samples per second that the tower was trained on."""
        self.window = int(extractor.nb_max_samples)
        """Samples in a window."""
        self.fused = bool(model.config.enable_fusion)
        self._exact: dict[tuple[str, int], bool] = {}
        with torch.no_grad():
            tokens, embedding = self._tower(self._mel(np.zeros(self.window, np.float32)))
        _, self.num_tokens, self.token_dim = tokens.shape
        self.embedding_dim = embedding.shape[1]
        settings = {name: getattr(extractor, name, None) for name in EXTRACTOR_FIELDS}
        settings |= {"framing": FRAMING, "weights": weights_sha256(model)}
        self.sha256 = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        """Identity of the features: weights, extractor settings and framing."""

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> ClapEncoder:
        """Load the audio half of a CLAP checkpoint: a folder, a Hugging Face id, or "demo".

        Raises:
            ModelError: not there, damaged, incomplete, no safetensors, or no CLAP model.
        """
        from transformers import ClapConfig

        from supervised.clap import ClapAudioHalf, FastClapExtractor

        path = locate(source, "encoder")
        options = {"revision": revision or "main"}
        try:
            config, _ = ClapConfig.get_config_dict(path, **options)
            if config.get("model_type") != "clap":
                raise ValueError(f"its model_type is {config.get('model_type')!r}")
            model, report = ClapAudioHalf.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
            )
            if report["missing_keys"]:
                raise ValueError(f"it lacks {len(report['missing_keys'])} weights, e.g. {min(report['missing_keys'])}")
            return cls(model, FastClapExtractor.from_pretrained(path, **options))
        except LOAD_ERRORS as error:
            raise ModelError(
                f"encoder {str(source)!r} cannot be loaded ({first_line(error)}); "
                "give a folder or a Hugging Face id of a CLAP model with safetensors weights and a preprocessor config."
            ) from error

    @torch.no_grad()
    def forward(self, waveforms: Sequence[Waveform | None]) -> AudioFeatures:
        """Encode every clip for itself, resampled to `rate` where it has another.

        Raises:
            DataError: a clip is empty, not mono float32, or holds NaN or infinity.
        """
        windows: list[np.ndarray] = []
        owners: list[int] = []  # the row of each window
        for row, waveform in enumerate(waveforms):
            if waveform is not None:
                samples = read_waveform(waveform, self.rate).samples
                starts = window_starts(len(samples), self.window)
                windows += [samples[start : start + self.window] for start in starts]
                owners += [row] * len(starts)
        device = self.device
        tokens = torch.zeros(len(waveforms), self.num_tokens, self.token_dim, device=device)  # (B, T, Da)
        embedding = torch.zeros(len(waveforms), self.embedding_dim, device=device)  # (B, De)
        heard_tokens, heard_embedding = self._encode_windows(windows)  # (W, T, Da), (W, De)
        for row in sorted(set(owners)):
            begin, end = owners.index(row), owners.index(row) + owners.count(row)
            tokens[row] = heard_tokens[begin:end].mean(0)
            embedding[row] = nn.functional.normalize(heard_embedding[begin:end].mean(0), dim=0)
        if not bool(torch.isfinite(tokens).all() and torch.isfinite(embedding).all()):
            raise DataError("a clip is too loud to be encoded (its features are not finite); scale it to +-1.")
        present = torch.tensor([waveform is not None for waveform in waveforms], dtype=torch.bool, device=device)
        return AudioFeatures(tokens, present[:, None].expand(-1, self.num_tokens).clone(), present, embedding)

    @property
    def device(self) -> torch.device:
        """Where the tower runs."""
        return next(self.model.parameters()).device

    def _encode_windows(self, windows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return tokens (W, T, Da) and embeddings (W, De); each window's bits are those it would have alone."""
        mels = [self._mel(window) for window in windows]  # (1, C, frames, mels) each
        whole = len(mels) - len(mels) % BATCH if len(mels) >= BATCH and self._batch_is_exact(mels[:BATCH]) else 0
        parts = [self._tower(torch.cat(mels[start : start + BATCH])) for start in range(0, whole, BATCH)]
        parts += [self._tower(mel) for mel in mels[whole:]]
        if not parts:
            empty = torch.zeros(0, self.num_tokens, self.token_dim, device=self.device)
            return empty, torch.zeros(0, self.embedding_dim, device=self.device)
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([embedding for _, embedding in parts])

    def _batch_is_exact(self, mels: list[Tensor]) -> bool:
        """Return whether a batch of this size gives each row the bits that it has alone, which shapes decide alone."""
        setting = (self.device.type, torch.get_num_threads())
        if setting not in self._exact:
            together = self._tower(torch.cat(mels))
            alone = [torch.cat(parts) for parts in zip(*[self._tower(mel) for mel in mels], strict=True)]
            self._exact[setting] = all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
        return self._exact[setting]

    def _mel(self, samples: np.ndarray) -> Tensor:
        """Return the spectrogram (1, C, frames, mels) of at most one window; C = 4 when fused, else 1."""
        # In fusion mode the extractor draws which clip to call "longer", though none is; the draw must not show.
        state = np.random.get_state() if self.fused else None
        features = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        if state is not None:
            np.random.set_state(state)
        mel: Tensor = features["input_features"].to(self.device, torch.float32)
        return mel

    def _tower(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T, Da) and embeddings (B, De) of spectrograms (B, C, frames, mels)."""
        longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=mel.device) if self.fused else None
        output = self.model(input_features=mel, is_longer=longer)
        tokens = output.last_hidden_state.flatten(2).transpose(1, 2)  # (B, Da, F, T') -> (B, T, Da)
        return tokens, nn.functional.normalize(output.audio_embeds, dim=-1)


def window_starts(length: int, window: int) -> list[int]:
    """Return where the windows over a clip begin: as few as cover it, equally spaced from its start to its end.

    >>> window_starts(25, 10), window_starts(10, 10), window_starts(11, 10)
    ([0, 8, 15], [0], [0, 1])
    """
    count = max(1, math.ceil(length / window))
    return [round(i * (length - window) / (count - 1)) for i in range(count)] if count > 1 else [0]
