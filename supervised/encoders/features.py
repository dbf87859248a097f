"""What a frozen encoder hears of a batch of clips, and what an encoder is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from supervised.data.sample import Waveform


@dataclass(frozen=True)
class AudioFeatures:
    """What the encoder heard, a row per question; rows without audio are zero and not `present`."""

    tokens: Tensor
    """float32 (B, T, Da); zero where `mask` is False. Of an ensemble: one encoder's tokens after the other's, each
    padded with zeros to the widest."""
    mask: Tensor
    """bool (B, T): True where a token counts."""
    present: Tensor
    """bool (B,): True where there was a clip."""
    embedding: Tensor
    """float32 (B, De): the clip in one vector of length 1; see the encoder for what it is."""
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


class AudioEncoder(Protocol):
    """A frozen encoder. A clip's features depend on the clip alone: not on its neighbours, not on chance."""

    rate: int
    """Samples per second that clips are best given in; others are resampled."""
    num_tokens: int
    """Tokens T of every clip, counted with those that its mask leaves out."""
    token_dim: int
    """Width Da of a token."""
    embedding_dim: int
    """Width De of the clip's embedding."""
    sha256: str
    """Identity of the features: weights, settings and framing."""

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Tokens and width of every encoder in it, in the order in which `AudioFeatures.tokens` holds them."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def __call__(self, waveforms: Sequence[Waveform | None]) -> AudioFeatures:
        """Encode every clip for itself; None gives a row without audio.

        Raises:
            DataError: a clip is empty, not mono float32, holds NaN or infinity, or its features would.
        """
        ...

    def to(self, device: torch.device) -> Any:
        """Move the weights."""
        ...
