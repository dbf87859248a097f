"""What the base itself answers to retention questions, kept: it never changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from supervised.stage_a.examples import CHUNK, Batch, Examples

CACHE_BYTES = 1 << 30
"""Base logits that take more memory are computed when they are needed."""


class BaseLogits:
    """The base's logits on retention questions: they never change, so they are computed once where memory allows."""

    def __init__(self, examples: Examples, rows: Sequence[int]) -> None:
        """Compute the logits of the questions at `rows`, unless all of them take more than `CACHE_BYTES`."""
        self.examples = examples
        self._cache: dict[int, Tensor] | None = None  # (K, V) each
        width = int(examples.model.base.get_output_embeddings().weight.shape[0])
        if sum(len(examples.targets[row]) for row in rows) * width * 4 <= CACHE_BYTES:
            self._cache = {}
            for start in range(0, len(rows), CHUNK):
                part = list(rows[start : start + CHUNK])
                for row, logits in zip(part, self._compute(part), strict=True):
                    self._cache[row] = logits[: len(examples.targets[row])].clone()

    def __call__(self, batch: Batch, like: Tensor) -> Tensor:
        """Return the logits (B, K, V) of the batch's retention questions, 0 for the others; float32."""
        result = torch.zeros_like(like, dtype=torch.float32)
        places = [i for i, retention in enumerate(batch.retention.tolist()) if retention]
        rows = [batch.rows[i] for i in places]
        if rows:
            found = self._compute(rows) if self._cache is None else [self._cache[row] for row in rows]
            for place, logits in zip(places, found, strict=True):
                result[place, : len(logits)] = logits
        return result

    @torch.no_grad()
    def _compute(self, rows: Sequence[int]) -> Tensor:
        """Return the logits (B, K, V) of the questions at `rows` without audio."""
        return self.examples.logits(self.examples.batch(rows), None, 0.0).float()
