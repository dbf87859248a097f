"""Whisper's encoder through transformers, with the feature extractor of the same checkpoint; its decoder is not read.

The encoder knows windows of 30 s only (1500 frames, 50 per second) and cannot mask: padding is encoded like sound. A
clip is padded to 30 s, because shorter inputs were never trained on (huggingface/transformers#26242), and afterwards
the frames that lie beyond its end, by the extractor's own mask, are left out. `POOL` neighbouring frames are averaged
to one token of 80 ms, so a clip has up to 375. The windows of a longer clip are laid one after the other and pooled by
as much more as there are windows: its tokens keep their order, and each covers more time.

The embedding is the mean of the clip's frames, at length 1: a summary of the sound, in no space shared with text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Tower
from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel

from supervised.base import freeze
from supervised.encoders.clap import require_all
from supervised.encoders.windows import Tensors, WindowedEncoder, identity

POOL = 4
"""Frames in a token, for each window of the clip."""
FRAMING = f"windows in order, mean of {POOL} valid frames per window, v1"
EXTRACTOR_FIELDS = ("feature_size", "sampling_rate", "hop_length", "n_fft", "chunk_length", "padding_value")


class WhisperEncoder(WindowedEncoder):
    """Whisper's encoder, frozen."""

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__(int(extractor.sampling_rate), int(extractor.n_samples))
        self.model = freeze(model)
        self.extractor = extractor
        extractor.dither = 0.0  # noise on the clip; a clip's features must not depend on chance
        with torch.no_grad():
            frames, _ = self._tower(*self._prepare(np.zeros(self.window, np.float32)))
        _, positions, self.token_dim = frames.shape
        self.num_tokens = -(-positions // POOL)
        self.embedding_dim = self.token_dim
        self.sha256 = identity(model, extractor, EXTRACTOR_FIELDS, FRAMING)

    @classmethod
    def from_pretrained(cls, path: str, revision: str) -> WhisperEncoder:
        """Load the encoder of a checkpoint; errors are those of transformers, see `loading.load_encoder`."""
        model, report = WhisperEncoderHalf.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, revision=revision
        )
        require_all(report)
        return cls(model, WhisperFeatureExtractor.from_pretrained(path, revision=revision))

    def _prepare(self, samples: np.ndarray) -> Tensors:
        """Return the spectrogram (1, mels, 3000) of at most one window, and where (1, 1500) the clip is."""
        features = self.extractor(
            samples, sampling_rate=self.rate, return_attention_mask=True, padding="max_length", return_tensors="pt"
        )
        # The second convolution makes one position of two columns; one that holds half a clip still counts.
        valid = features["attention_mask"][:, ::2].bool()  # (1, 1500)
        return features["input_features"].to(self.device, torch.float32), valid.to(self.device)

    def _tower(self, *inputs: Tensor) -> Tensors:
        """Return frames (W, 1500, Da) of spectrograms (W, mels, 3000), and the mask (W, 1500) as it came."""
        mel, valid = inputs
        return self.model.encoder(mel).last_hidden_state, valid

    def _clip(self, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (T, Da), mask (T,) and embedding (Da,) of the frames (W, P, Da) that are `valid` (W, P)."""
        frames, valid = outputs
        tokens, mask = pool_frames(frames.flatten(0, 1), valid.flatten(), POOL * len(frames))
        heard = frames[valid].mean(0)
        return tokens, mask, nn.functional.normalize(heard, dim=0)


class WhisperEncoderHalf(WhisperPreTrainedModel):
    """The encoder, read from a checkpoint of both halves, with or without a head."""

    _keys_to_ignore_on_load_unexpected = (r"(^|\.)decoder\.", "^proj_out", "^projector", "^classifier")

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.encoder = Tower(config)
        self.post_init()


def pool_frames(frames: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the means of every `size` frames (F, Da), those that are not `valid` (F,) left out.

    Returns:
        tokens (ceil(F / size), Da), zero where no frame of theirs is valid, and the mask of the others.
    """
    missing = -len(frames) % size
    frames = nn.functional.pad(frames, (0, 0, 0, missing)).unflatten(0, (-1, size))  # (T, size, Da)
    valid = nn.functional.pad(valid, (0, missing)).unflatten(0, (-1, size))  # (T, size)
    count = valid.sum(1, keepdim=True)  # (T, 1)
    total = torch.where(valid[..., None], frames, 0.0).sum(1)  # (T, Da)
    return total / count.clamp(min=1), valid.any(1)
