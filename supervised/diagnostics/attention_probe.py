"""The attention probe: what the prompt attends to, audio tokens or markers, and how sharply.

A position that attends to the markers takes over next to nothing (their values start near zero): the mass on the audio
tokens tells whether the adapter listens. Supervised tokens are the prompt's tokens of questions that need audio, where
the task loss taught it to listen; the others were taught to stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supervised.diagnostics.recording import Fused

COLUMNS = 48
"""Prompt tokens that are told one by one, counted from the last."""


@dataclass(frozen=True)
class Probe:
    """What n questions attend to at one place, in means over heads where no H is named."""

    mass: Tensor
    """float32 (n,): mean share of the audio tokens over the positions that hear."""
    answer_mass: Tensor
    """float32 (n,): the same at the last position of the prompt, which predicts the answer."""
    heads: Tensor
    """float32 (n, H): mean share of the audio tokens per head."""
    tokens: Tensor
    """float32 (n, H, K): mean share of every token; markers are first and last."""
    entropy: Tensor
    """float32 (n, H, COLUMNS): in nats, of the last columns; 0 where none hears."""
    heard: Tensor
    """bool (n, COLUMNS): the columns that hear."""
    open: Tensor
    """int64 (n,): tokens that may be attended to; the largest entropy is its logarithm."""

    def __len__(self) -> int:
        return len(self.mass)

    @staticmethod
    def concatenate(parts: Sequence[Probe]) -> Probe:
        """Return the questions of all `parts`."""
        return Probe(**{name: torch.cat([vars(part)[name] for part in parts]) for name in Probe.__dataclass_fields__})


def probe(fused: Fused) -> Probe:
    """Return what the questions of one call of the adapter attend to."""
    weights = fused.attended.weights.cpu()  # (B, H, L, K)
    hears = fused.hears.cpu()  # (B, L)
    audio = weights[..., 1:-1].sum(-1)  # (B, H, L)
    count = hears.sum(1).clamp(min=1)  # (B,)
    heads = audio.where(hears[:, None], 0).sum(2) / count[:, None]  # (B, H)
    tokens = weights.where(hears[:, None, :, None], 0).sum(2) / count[:, None, None]  # (B, H, K)
    entropy = torch.special.entr(weights).sum(-1).where(hears[:, None], 0)  # (B, H, L)
    return Probe(
        mass=heads.mean(1),
        answer_mass=audio[:, :, -1].mean(1).where(hears[:, -1], 0),
        heads=heads,
        tokens=tokens,
        entropy=_last(entropy, COLUMNS),
        heard=_last(hears, COLUMNS),
        open=fused.attended.sound.mask.sum(1).cpu(),
    )


def figures(probe: Probe, retention: Tensor) -> dict[str, Any]:
    """Return the figures of one place.

    Args:
        probe: of n questions.
        retention: bool (n,): the question needs no audio.
    """
    heard = probe.heard  # (n, C)
    by_head = probe.entropy.where(heard[:, None], 0).sum((0, 2)) / heard.sum().clamp(min=1)  # (H,)
    by_token = probe.entropy.where(heard[:, None], 0).sum(0) / heard.sum(0).clamp(min=1)  # (H, C)
    known = heard.any(0)  # (C,)
    return {
        "audio_mass": float(probe.mass.mean()),
        "audio_mass_supervised": _mean(probe.mass, ~retention),
        "audio_mass_retention": _mean(probe.mass, retention),
        "audio_mass_answer_supervised": _mean(probe.answer_mass, ~retention),
        "audio_mass_answer_retention": _mean(probe.answer_mass, retention),
        "marker_mass": 1 - float(probe.mass.mean()),
        "audio_mass_per_head": probe.heads.mean(0).tolist(),
        "mass_per_token": probe.tokens.mean((0, 1)).tolist(),
        "entropy": float(by_head.mean()),
        "entropy_limit": float(probe.open.float().log().mean()),
        "entropy_per_head": by_head.tolist(),
        "entropy_per_head_and_token": by_token[:, known].tolist(),
    }


def _last(values: Tensor, count: int) -> Tensor:
    """Return the last `count` columns of (..., L), with zeros before them where there are fewer."""
    values = values[..., -count:]
    return torch.nn.functional.pad(values, (count - values.shape[-1], 0))


def _mean(values: Tensor, counts: Tensor) -> float:
    return float(values[counts].mean())
