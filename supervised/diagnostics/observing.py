"""One pass over the questions, with everything that the diagnostics read: answers, logits, states, the adapter's work.

Everything is brought to the CPU and reduced at once, so that a large base needs no more memory than for its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supervised.answers import score_sample
from supervised.diagnostics.attention_probe import Probe, probe
from supervised.diagnostics.questions import Questions
from supervised.diagnostics.recording import Fused, recording
from supervised.diagnostics.residual import Residual, residual
from supervised.errors import ModelError
from supervised.safe_model import SafeModel


@dataclass(frozen=True)
class Settings:
    """How the questions are asked."""

    max_new_tokens: int
    positions: int
    """Prompt positions at most whose states are kept, over all questions."""
    seed: int
    """Of the positions."""


@dataclass(frozen=True)
class Observation:
    """What n questions showed under one gate; S states: the embeddings and the output of every layer."""

    scores: np.ndarray
    """float64 [n]: of the answers."""
    logits: Tensor
    """float32 (n, V): of the first token of the answer."""
    answer_states: Tensor
    """float32 (S, n, D): at the last position of the prompt."""
    prompt_states: Tensor
    """float32 (S, m, D): at the positions that were drawn."""
    question: Tensor
    """int64 (m,): the question of each of them."""
    probes: list[Probe]
    """One per place of the fusion; none where nothing was fused."""
    residuals: list[Residual]
    """As `probes`."""
    untouched: bool
    """Whether all positions that must not hear kept their bits."""


@dataclass(frozen=True)
class _Part:
    """The observation of one batch."""

    scores: list[float]
    logits: Tensor
    answer_states: Tensor
    prompt_states: Tensor
    question: Tensor
    seen: list[tuple[Probe, Residual]]
    untouched: bool


def answer_scores(model: SafeModel, batches: Sequence[Questions], gate: float, max_new_tokens: int) -> np.ndarray:
    """Return the score of every question's answer under a gate, float64 [n]."""
    result: list[float] = []
    for batch in batches:
        audio = batch.audio if gate > 0 else None
        output = model.generate(batch.inputs, audio, gate, images=batch.images, max_new_tokens=max_new_tokens)
        result += _scores(model, batch, output)
    return np.array(result, dtype=np.float64)


def observe(model: SafeModel, batches: Sequence[Questions], gate: float, settings: Settings) -> Observation:
    """Ask all questions under a gate and look at everything."""
    share = max(1, settings.positions // max(1, sum(len(batch.samples) for batch in batches)))
    parts, start = [], 0
    for number, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(settings.seed + number)
        parts.append(_observe(model, batch, gate, settings.max_new_tokens, share, start, generator))
        start += len(batch.samples)
    places = range(len(parts[0].seen))
    return Observation(
        scores=np.array([value for part in parts for value in part.scores], dtype=np.float64),
        logits=torch.cat([part.logits for part in parts]),
        answer_states=torch.cat([part.answer_states for part in parts], 1),
        prompt_states=torch.cat([part.prompt_states for part in parts], 1),
        question=torch.cat([part.question for part in parts]),
        probes=[Probe.concatenate([part.seen[place][0] for part in parts]) for place in places],
        residuals=[Residual.concatenate([part.seen[place][1] for part in parts]) for place in places],
        untouched=all(part.untouched for part in parts),
    )


def _observe(
    model: SafeModel,
    batch: Questions,
    gate: float,
    max_new_tokens: int,
    share: int,
    start: int,
    generator: torch.Generator,
) -> _Part:
    with recording(model.adapter) as seen:
        output = model.generate(
            batch.inputs,
            batch.audio if gate > 0 else None,
            gate,
            images=batch.images,
            max_new_tokens=max_new_tokens,
            output_hidden_states=True,
        )
    states = states_of(output)  # S times (B, L, D)
    rows, columns = _draw(batch.inputs["attention_mask"].cpu().bool(), share, generator)
    return _Part(
        scores=_scores(model, batch, output),
        logits=output.logits[0].float().cpu(),
        answer_states=torch.stack([state[:, -1].float().cpu() for state in states]),
        prompt_states=torch.stack([state[rows, columns].float().cpu() for state in states]),
        question=rows + start,
        seen=[(probe(fused), residual(fused)) for fused in _by_place(seen, model)],
        untouched=all(fused.untouched for fused in seen),
    )


def states_of(output: Any) -> Sequence[Tensor]:
    """Return the prompt's states in an output of `generate`: embeddings, then every layer's, (B, L, D) each.

    Raises:
        ModelError: the base tells no hidden states.
    """
    states = output.get("encoder_hidden_states") or (output.get("hidden_states") or [None])[0]
    if states is None:
        raise ModelError("the base tells no hidden states in generate, so its layers cannot be compared.")
    return list(states)


def _by_place(seen: list[Fused], model: SafeModel) -> list[Fused]:
    """Return one entry per place; a batch without audio, or a gate of 0, gives none."""
    first = {fused.place: fused for fused in reversed(seen)}
    return [first[place] for place in range(model.adapter.places)] if first else []


def _scores(model: SafeModel, batch: Questions, output: Any) -> list[float]:
    predictions = model.decode(output, batch.inputs)
    return [score_sample(text, sample) for text, sample in zip(predictions, batch.samples, strict=True)]


def _draw(attended: Tensor, share: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows and columns of `share` attended positions per row of `attended` (B, L), fewer in shorter rows."""
    chance = torch.rand(attended.shape, generator=generator).masked_fill(~attended, -1.0)
    columns = chance.topk(min(share, attended.shape[1]), dim=1).indices  # (B, share)
    rows = torch.arange(len(attended))[:, None].expand_as(columns)
    kept = attended.gather(1, columns)
    return rows[kept], columns[kept]
