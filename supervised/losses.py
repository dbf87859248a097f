"""The two terms of Stage A: learn what the audio says, and stay the base model where the audio says nothing.

Both read logits that are already aligned with their targets: position k predicts label k. Both average over tokens,
over the whole batch, so that a long answer counts more than a short one and no batch split changes the sum. They are
computed in float32, whatever the model's precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position that is not an answer token: prompt, padding, or a row that this term does not cover."""


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the answer tokens.

    Args:
        logits: (B, K, V), position k predicts label k.
        labels: (B, K) int64, token ids, `IGNORED` where nothing is to be learned.

    Returns:
        The mean over all labels that count, a scalar in float32; 0 where none counts.
    """
    summed = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return summed / (labels != IGNORED).sum().clamp(min=1)


def distillation_loss(logits: Tensor, base_logits: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(base || safe) at temperature T (Hinton et al., arXiv:1503.02531).

    T^2 keeps the size of the gradient independent of T.

    Args:
        logits: (B, K, V), of the model with audio.
        base_logits: (B, K, V), of the base model at the same positions; no gradient reaches them.
        mask: (B, K) bool, True at the answer positions of retention questions.
        temperature: T > 0.

    Returns:
        The mean over the positions of the mask, a scalar in float32; 0 where the mask is empty.
    """
    # Rows outside the mask are dropped rather than multiplied by 0: a NaN there must not reach the sum.
    safe = F.log_softmax(logits[mask].float() / temperature, dim=-1)  # (N, V)
    base = F.log_softmax(base_logits[mask].detach().float() / temperature, dim=-1)  # (N, V)
    divergence = torch.sum(base.exp() * (base - safe), dim=-1)  # (N,)
    return temperature**2 * divergence.sum() / mask.sum().clamp(min=1)
