"""Delta logits: how far the adapter moves the base's logits (n, V) at the answer position, per kind of question.

Over all tokens of the vocabulary |z_g - z_0| is taken, and KL(softmax z_0 || softmax z_g) in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(base: Tensor, fused: Tensor) -> Tensor:
    """Return KL(base || fused) of every question, float32 (n,), from logits (n, V)."""
    p, q = F.log_softmax(base, -1), F.log_softmax(fused, -1)
    return torch.sum(p.exp() * (p - q), -1).clamp(min=0)  # below 0 by rounding only


def delta_logits(base: Tensor, fused: Tensor) -> dict[str, float]:
    """Return mean, 95th percentile and maximum of |fused - base|, mean KL, and the share of changed first tokens.

    Tokens that the base itself forbids (-inf in both) do not count.

    Args:
        base: logits (n, V) with the gate at 0.
        fused: logits (n, V).
    """
    delta = (fused - base).abs()
    delta = delta[torch.isfinite(delta)]
    kl = divergence(base.clamp(min=-1e4), fused.clamp(min=-1e4))
    return {
        "mean": float(delta.mean()),
        "p95": quantile(delta, 0.95),
        "max": float(delta.max()),
        "kl": float(kl.mean()),
        "kl_p95": quantile(kl, 0.95),
        "changed": float((base.argmax(-1) != fused.argmax(-1)).float().mean()),
        "questions": float(len(base)),
    }


def by_kind(base: Tensor, fused: Tensor, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the figures of every kind of question, in the order of their names; `kinds` has one for each of n."""
    result = {}
    for name in sorted(set(kinds)):
        chosen = torch.tensor([kind == name for kind in kinds])
        result[name] = delta_logits(base[chosen], fused[chosen])
    return result


def quantile(values: Tensor, share: float) -> float:
    """Return the smallest value that at least a share of the values does not exceed; `quantile` has a limit of size."""
    rank = max(1, min(len(values), -int(-share * len(values) // 1)))
    return float(values.kthvalue(rank).values)
