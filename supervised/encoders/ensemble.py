"""Several encoders as one: every clip goes through each of them, and their tokens stand one after the other.

Tokens of different width share one tensor, the narrower ones padded with zeros; the adapter knows every encoder's
width and projects each to a common one (`JoinedTokens`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from supervised.data.sample import Waveform
from supervised.encoders.features import AudioEncoder, AudioFeatures


class EnsembleEncoder(nn.Module):
    """An `AudioEncoder` of two or more."""

    def __init__(self, encoders: Sequence[AudioEncoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)  # type: ignore[arg-type]  # every encoder is a module
        self.rate = max(encoder.rate for encoder in encoders)
        """Highest rate of the encoders; the others resample from it."""
        self.parts = tuple(part for encoder in encoders for part in encoder.parts)
        self.num_tokens = sum(count for count, _ in self.parts)
        self.token_dim = max(width for _, width in self.parts)
        self.embedding_dim = sum(encoder.embedding_dim for encoder in encoders)
        self.sha256 = hashlib.sha256("\n".join(encoder.sha256 for encoder in encoders).encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the encoders run."""
        return next(self.parameters()).device

    def forward(self, waveforms: Sequence[Waveform | None]) -> AudioFeatures:
        """Encode every clip with every encoder; the embedding is theirs side by side, at length 1.

        Raises:
            DataError: a clip cannot be encoded.
        """
        each: list[AudioFeatures] = [encoder(waveforms) for encoder in self.encoders]
        tokens = [nn.functional.pad(part.tokens, (0, self.token_dim - part.tokens.shape[-1])) for part in each]
        return AudioFeatures(
            torch.cat(tokens, 1),  # (B, T, Da)
            torch.cat([part.mask for part in each], 1),
            each[0].present,
            torch.cat([part.embedding for part in each], 1) / len(each) ** 0.5,
        )
