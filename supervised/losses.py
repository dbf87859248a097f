"""The terms of Stage A: learn what the audio says, and stay the base model where the audio says nothing.

They read logits that are already aligned with their targets: position k predicts label k. They average over tokens,
over the whole batch, so that a long answer counts more than a short one; a part of a batch is given the `count` of the
whole, so that the losses of the parts add up to that of the batch. They are computed in float32, whatever the model's
precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position that is not an answer token: prompt, padding, or a row that this term does not cover."""


def task_loss(logits: Tensor, labels: Tensor, count: int | None = None) -> Tensor:
    """Return the cross-entropy of the answer tokens.

    Args:
        logits: (B, K, V), position k predicts label k.
        labels: (B, K) int64, token ids, `IGNORED` where nothing is to be learned.
        count: labels of the whole batch that count; None: these rows are the batch.

    Returns:
        The sum over all labels that count, divided by `count`, a scalar in float32; 0 where none counts.
    """
    summed = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return summed / max(1, int((labels != IGNORED).sum()) if count is None else count)


def distillation_loss(
    logits: Tensor, base_logits: Tensor, mask: Tensor, temperature: float, count: int | None = None
) -> Tensor:
    """Return T^2 * KL(base || safe) at temperature T (Hinton et al., arXiv:1503.02531).

    T^2 keeps the size of the gradient independent of T.

    Args:
        logits: (B, K, V), of the model with audio.
        base_logits: (B, K, V), of the base model at the same positions; no gradient reaches them.
        mask: (B, K) bool, True at the answer positions of retention questions.
        temperature: T > 0.
        count: positions of the whole batch; None: these rows are the batch.

    Returns:
        The sum over the positions of the mask, divided by `count`, a scalar in float32; 0 where the mask is empty.
    """
    # Rows outside the mask are dropped rather than multiplied by 0: a NaN there must not reach the sum.
    safe = F.log_softmax(logits[mask].float() / temperature, dim=-1)  # (N, V)
    base = F.log_softmax(base_logits[mask].detach().float() / temperature, dim=-1)  # (N, V)
    divergence = torch.sum(base.exp() * (base - safe), dim=-1)  # (N,)
    return temperature**2 * divergence.sum() / max(1, int(mask.sum()) if count is None else count)


def feature_loss(states: Tensor, base_states: Tensor, count: int | None = None) -> Tensor:
    """Return how far pooled states lie from the base's: squared distances, relative to the base's squared sizes.

    Relative, so that a weight means the same for a base whose states are large (FitNets, Romero et al.,
    arXiv:1412.6550, compares states as they are).

    Args:
        states: (N, D), of the model with audio.
        base_states: (N, D), of the base model; no gradient reaches them.
        count: rows of the whole batch; None: these rows are the batch.

    Returns:
        The sum over the rows, divided by `count`, a scalar in float32; 0 where there is no row.
    """
    base = base_states.detach().float()
    distances = (states.float() - base).square().sum(-1) / base.square().sum(-1).clamp(min=torch.finfo().tiny)  # (N,)
    return distances.sum() / max(1, len(states) if count is None else count)
