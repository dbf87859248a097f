"""Multi-head attention as projectors and fusion use it: scores clamped, masks exact, no row ever NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCORE_LIMIT = 50.0
MASKED = -1e4
"""Score of a token that must not be seen; its weight is exactly 0 in float32, and no row is ever NaN."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, heads: int, gates: Tensor | None = None) -> Tensor:
    """Return what each query sees of the tokens that `mask` leaves, softmax(Q K' / sqrt(d)) V in `heads` parts.

    With `gates` the weights are those of the mask, and the gradient that reaches the gates is that of weights
    proportional to sigmoid(gate) * exp(score), in which a closed token still has its share and can open again
    (straight-through, arXiv:1308.3432). All other gradients are exact.

    Args:
        query: (B, L, D), or (1, L, D) for all rows.
        key: (B, K, D).
        value: (B, K, D).
        mask: bool (B, K), True for the tokens that may be seen.
        heads: a divisor of D.
        gates: logits (B, K) of tokens that were opened or closed by them, inf for those that are always open.

    Returns:
        (B, L, D).
    """
    scores = attention_scores(query, key, heads)  # (B, H, L, K)
    weights = attention_weights(scores, mask)
    if gates is not None and torch.is_grad_enabled():
        soft = (scores.detach() + nn.functional.logsigmoid(gates)[:, None, None, :]).softmax(-1)  # (B, H, L, K)
        weights = weights + (soft - soft.detach())  # + 0: the values are those of the mask
    return (weights @ _split(value, heads)).transpose(1, 2).flatten(2)


def attention_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Return Q K' / sqrt(d), clamped, (B, H, L, K) for queries (B, L, D) and keys (B, K, D)."""
    query, key = _split(query, heads), _split(key, heads)  # (B, H, L or K, d)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.clamp(-SCORE_LIMIT, SCORE_LIMIT)


def attention_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the share of every token in what a query sees, for scores (B, H, L, K) and the tokens' mask (B, K)."""
    return scores.masked_fill(~mask[:, None, None, :], MASKED).softmax(-1)


def _split(x: Tensor, heads: int) -> Tensor:
    """Return (B, H, L, D / H) for (B, L, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
