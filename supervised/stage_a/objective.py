"""The composite loss of Stage A, of one part of a batch.

    task * CE(answer | audio, g)                 questions that need audio, answer tokens only
    distill * T^2 * KL(base || safe)             retention questions with irrelevant audio, first tokens of the answer
    feature * |pooled states - base's|^2         the same questions, relative to the base's
    sparsity * share of audio tokens in use      every clip

Every term is a sum over its part divided by the count of the whole batch, so that parts and processes add up to the
batch. The Fisher term reads no question and is added once per step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from supervised.losses import IGNORED, distillation_loss, feature_loss, task_loss
from supervised.stage_a.config import LossConfig
from supervised.stage_a.examples import Batch, Examples
from supervised.stage_a.teacher import Teacher, head_inputs, pooled_states

READING = ("task", "distill", "feature", "sparsity")
"""Terms that read questions: all but the Fisher term."""


class Objective:
    """Computes the terms."""

    def __init__(self, examples: Examples, teacher: Teacher | None, config: LossConfig) -> None:
        """Without a `teacher` nothing holds the model near its base."""
        self.examples, self.teacher, self.config = examples, teacher, config

    def counts(self, batches: Sequence[Batch]) -> Tensor:
        """Return what each of `READING` averages over in these parts, float64 (4,): whole numbers."""
        labels = sum(int((batch.labels != IGNORED)[~batch.retention].sum()) for batch in batches)
        anchored = sum(int(self._anchored(batch).sum()) for batch in batches)
        retention = sum(int(batch.retention.sum()) for batch in batches)
        clips = sum(int(batch.audio.present.sum()) for batch in batches)
        return torch.tensor([labels, anchored, retention, clips], dtype=torch.float64)

    def __call__(self, batch: Batch, gate: float, budget: int | None, counts: Tensor) -> dict[str, Tensor]:
        """Return the terms of one part, unweighted scalars in float32.

        Args:
            batch: the part.
            gate: in (0, 1].
            budget: audio tokens to hear; None: all.
            counts: of the whole batch, from `counts`.
        """
        base = self.examples.model.base
        labels, anchored, retention, clips = (int(count) for count in counts.tolist())
        with head_inputs(base) as seen:
            logits = self.examples.logits(batch, batch.audio, gate, budget)  # (B, K, V)
        terms = {"task": task_loss(logits, batch.labels.masked_fill(batch.retention[:, None], IGNORED), labels)}
        if self.teacher is not None:
            kept = batch.retention
            told, states = self.teacher(batch)
            if self.config.distill > 0:
                mask, temperature = self._anchored(batch)[kept], self.config.temperature
                terms["distill"] = distillation_loss(logits[kept], told.to(logits.device), mask, temperature, anchored)
            if self.config.feature > 0:
                pooled = pooled_states(base, seen, batch.labels)[kept]  # (N, D)
                terms["feature"] = feature_loss(pooled, states.to(pooled.device), retention)
        if self.config.sparsity > 0:
            terms["sparsity"] = self.examples.model.adapter.token_share(batch.audio, clips)
        return terms

    def _anchored(self, batch: Batch) -> Tensor:
        """Return the positions (B, K) that are held near the base: the first of retention questions' answers."""
        first = torch.arange(batch.labels.shape[1], device=batch.labels.device) < self.config.anchor_tokens
        return (batch.labels != IGNORED) & batch.retention[:, None] & first
