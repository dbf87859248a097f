"""What the base itself says to retention questions, kept: it never changes.

Its logits at the answer's positions are what the distillation compares with, and its states there, averaged, what the
feature term does. States are what the output head reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from supervised.base import has_encoder
from supervised.losses import IGNORED
from supervised.stage_a.examples import CHUNK, Batch, Examples

CACHE_BYTES = 1 << 30
"""Base logits that take more memory are computed when they are needed."""


class Teacher:
    """The base's logits and pooled states of retention questions, by row."""

    def __init__(self, examples: Examples, rows: Sequence[int]) -> None:
        """Compute those of the questions at `rows` if they are kept, and take no more than `CACHE_BYTES`."""
        self.examples = examples
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = None  # (K, V) and (D,) each
        width = int(examples.model.base.get_output_embeddings().weight.shape[0])
        if examples.kept and sum(len(examples.targets[row]) for row in rows) * width * 4 <= CACHE_BYTES:
            self._kept = {}
            for start in range(0, len(rows), CHUNK):
                part = list(rows[start : start + CHUNK])
                logits, states = self._compute(examples.batch(part))
                for i, row in enumerate(part):
                    self._kept[row] = logits[i, : len(examples.targets[row])].clone(), states[i].clone()

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (N, K, V) and pooled states (N, D) of the batch's N retention questions, float32.

        Logits behind the end of an answer are 0.
        """
        places = [place for place, retention in enumerate(batch.retention.tolist()) if retention]
        # Where there is none, another question stands in: a base that is spread over processes, which may have some,
        # computes when all of them ask it, or none.
        if not self._kept:
            logits, states = self._compute(self.examples.part(batch, places or [0]))
        else:
            kept = [self._kept[row] for row in [batch.rows[place] for place in places] or list(self._kept)[:1]]
            logits = torch.nn.utils.rnn.pad_sequence([logits for logits, _ in kept], batch_first=True)
            states = torch.stack([states for _, states in kept])
        logits, states = logits[: len(places)], states[: len(places)]
        longer = batch.labels.shape[1] - logits.shape[1]  # an answer of a question that needs audio may be the longest
        return torch.nn.functional.pad(logits, (0, 0, 0, longer)), states

    @torch.no_grad()
    def _compute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, V) and pooled states (B, D) of a batch without audio."""
        with head_inputs(self.examples.model.base) as seen:
            logits = self.examples.logits(batch, None, 0.0).float()
        return logits, pooled_states(self.examples.model.base, seen, batch.labels)


@contextmanager
def head_inputs(base: Any) -> Iterator[list[Tensor]]:
    """Collect what the output head of `base` reads, (B, n, D) of every pass."""
    seen: list[Tensor] = []
    hook = base.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


def pooled_states(base: Any, seen: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the mean state (B, D) over the positions that predict `labels` (B, K), float32.

    Args:
        base: of the pass.
        seen: from `head_inputs`, one pass.
        labels: int64, `IGNORED` behind the end of an answer.
    """
    length = labels.shape[1]
    states = seen[-1][:, -length:] if has_encoder(base) else seen[-1][:, -length - 1 : -1]  # (B, K, D)
    counted = (labels != IGNORED)[..., None]  # (B, K, 1)
    return (states.float() * counted).sum(1) / counted.sum(1)
