"""Clips of any length through a tower that takes windows of one length.

A clip of up to one window is padded to it; a longer one is covered by windows of that length, the first at its start,
the last at its end, equally spaced: nothing is cropped at random. Batched kernels may differ in the last bits from
single ones: windows share a batch only of one size, and only where that was tried and gave each window the bits it
has alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supervised.base import weights_sha256
from supervised.data.media import read_waveform
from supervised.data.sample import Waveform
from supervised.encoders.features import AudioFeatures
from supervised.errors import DataError

BATCH = 16
"""Windows that go through the tower together, where that does not show."""
Tensors = tuple[Tensor, ...]


class WindowedEncoder(nn.Module, ABC):
    """An `AudioEncoder` made of a tower; what the tower takes and gives is told by those below."""

    num_tokens: int
    token_dim: int
    embedding_dim: int
    sha256: str

    def __init__(self, rate: int, window: int) -> None:
        super().__init__()
        self.rate = rate
        """Samples per second that the tower was trained on."""
        self.window = window
        """Samples in a window."""
        self._exact: dict[tuple[str, int], bool] = {}

    @abstractmethod
    def _prepare(self, samples: np.ndarray) -> Tensors:
        """Return the tower's inputs (1, ...) for at most one window of samples."""

    @abstractmethod
    def _tower(self, *inputs: Tensor) -> Tensors:
        """Return the tower's outputs (W, ...) for inputs (W, ...)."""

    @abstractmethod
    def _clip(self, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (T, Da), mask (T,) and embedding (De,) of the clip whose windows gave outputs (W, ...)."""

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Tokens and width."""
        return ((self.num_tokens, self.token_dim),)

    @property
    def device(self) -> torch.device:
        """Where the tower runs."""
        return next(self.parameters()).device

    @torch.no_grad()
    def forward(self, waveforms: Sequence[Waveform | None]) -> AudioFeatures:
        """Encode every clip for itself, resampled to `rate` where it has another.

        Raises:
            DataError: a clip is empty, not mono float32, holds NaN or infinity, or its features would.
        """
        count, device = len(waveforms), self.device
        tokens = torch.zeros(count, self.num_tokens, self.token_dim, device=device)  # (B, T, Da)
        mask = torch.zeros(count, self.num_tokens, dtype=torch.bool, device=device)  # (B, T)
        embedding = torch.zeros(count, self.embedding_dim, device=device)  # (B, De)
        clips = {
            row: read_waveform(waveform, self.rate).samples
            for row, waveform in enumerate(waveforms)
            if waveform is not None
        }
        starts = {row: window_starts(len(samples), self.window) for row, samples in clips.items()}
        windows = (clips[row][start : start + self.window] for row in clips for start in starts[row])
        outputs = self._through_tower(self._prepare(window) for window in windows)
        for row in clips:
            each = [next(outputs) for _ in starts[row]]
            tokens[row], mask[row], embedding[row] = self._clip(*map(torch.cat, zip(*each, strict=True)))
        if not bool(torch.isfinite(tokens).all() and torch.isfinite(embedding).all()):
            raise DataError("a clip is too loud to be encoded (its features are not finite); scale it to +-1.")
        present = torch.tensor([waveform is not None for waveform in waveforms], dtype=torch.bool, device=device)
        return AudioFeatures(tokens, mask, present, embedding)

    def _through_tower(self, inputs: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the tower's outputs (1, ...) window by window; each one's bits are those it would have alone."""
        for batch in _batches(inputs):
            if len(batch) == BATCH and self._batch_is_exact(batch):
                together = self._tower(*map(torch.cat, zip(*batch, strict=True)))
                yield from zip(*(output.split(1) for output in together), strict=True)
            else:
                yield from (self._tower(*window) for window in batch)

    def _batch_is_exact(self, batch: list[Tensors]) -> bool:
        """Return whether a batch of this size gives each row the bits that it has alone, which shapes decide alone."""
        setting = (self.device.type, torch.get_num_threads())
        if setting not in self._exact:
            together = self._tower(*map(torch.cat, zip(*batch, strict=True)))
            alone = map(torch.cat, zip(*[self._tower(*window) for window in batch], strict=True))
            self._exact[setting] = all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
        return self._exact[setting]


def identity(model: Any, extractor: Any, fields: Sequence[str], framing: str) -> str:
    """Return the SHA-256 of what features come from: the weights, what the extractor is set to, how clips are framed.

    Args:
        model: the tower.
        extractor: makes the tower's inputs.
        fields: settings of the extractor that change them; one that it does not have counts as None.
        framing: how clips of other lengths than a window are told, and its version.
    """
    settings = {name: getattr(extractor, name, None) for name in fields}
    settings |= {"framing": framing, "weights": weights_sha256(model)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def window_starts(length: int, window: int) -> list[int]:
    """Return where the windows over a clip begin: as few as cover it, equally spaced from its start to its end.

    >>> window_starts(25, 10), window_starts(10, 10), window_starts(11, 10)
    ([0, 8, 15], [0], [0, 1])
    """
    count = max(1, math.ceil(length / window))
    return [round(i * (length - window) / (count - 1)) for i in range(count)] if count > 1 else [0]


def _batches(inputs: Iterable[Tensors]) -> Iterator[list[Tensors]]:
    """Yield the inputs in lists of `BATCH`, the last one shorter."""
    batch: list[Tensors] = []
    for window in inputs:
        batch.append(window)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
