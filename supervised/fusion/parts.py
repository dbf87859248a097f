"""What every kind of fusion is given, the states that hear and the tokens they hear, and how its answer is bounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Listeners:
    """Hidden states that may hear."""

    hidden: Tensor
    """float32 (B, L, D)."""
    unit: Tensor | float
    """Size of the hidden states: one number, or (B, L, 1)."""
    hears: Tensor
    """bool (B, L), False for padding and for the answer, where `hidden` is zero."""


@dataclass(frozen=True)
class Sound:
    """Audio tokens, markers first and last."""

    tokens: Tensor
    """float32 (B, K, D), in the space of the base's text embeddings."""
    mask: Tensor
    """bool (B, K): True for those that may be attended to."""
    gates: Tensor | None = None
    """float32 (B, K): logits that opened and closed the tokens, where they are to be trained; inf: always open."""


def capped(context: Tensor) -> Tensor:
    """Return `context` (..., D), scaled down to a root mean square of 1 where it has more."""
    size = torch.linalg.vector_norm(context, dim=-1, keepdim=True) / context.shape[-1] ** 0.5  # (..., 1)
    return context * size.clamp(min=1.0).reciprocal()


def sizes(hidden: Tensor) -> Tensor:
    """Return the root mean square (B, L, 1) of every position of `hidden` (B, L, D), without a gradient."""
    return torch.linalg.vector_norm(hidden.detach(), dim=-1, keepdim=True).div(hidden.shape[-1] ** 0.5).clamp(min=1e-6)
