"""What a step of Stage A uses, as functions of its number: learning rates, gate, questions, token budget.

Because nothing here has a memory, a run that goes on from step k does what it would have done anyway.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from supervised.stage_a.config import StageAConfig


def parameter_groups(adapter: nn.Module, config: StageAConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups; each trainable parameter of the adapter stands in exactly one.

    Only matrices decay: a decayed scale or norm would fade, and a decayed marker would leave the base's embeddings.
    Every group keeps its peak rate as `peak_lr`.
    """
    rates = {
        "projector": config.projector_lr,
        "join": config.projector_lr,
        "fusion": config.fusion_lr,
        "markers": config.marker_lr,
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in adapter.named_parameters():
        if parameter.requires_grad:
            part = name.split(".", 1)[0]
            groups.setdefault((part, part != "markers" and parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": rates[part],
            "lr": 0.0,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in groups.items()
    ]


def set_rates(optimizer: torch.optim.Optimizer, step: int, config: StageAConfig) -> float:
    """Set the rates of step `step` (the first is 0) and return the factor on the peak rates."""
    factor = rate_factor(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return factor


def rate_factor(step: int, config: StageAConfig) -> float:
    """Return the linear warm-up, then the cosine that ends near 0 at the last step.

    >>> [round(rate_factor(step, StageAConfig(steps=6, warmup_steps=2)), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def gate_at(step: int, config: StageAConfig) -> float:
    """Return the gate of step `step`: it starts above 0, where the adapter would be bypassed, and ends at 1.

    >>> [gate_at(step, StageAConfig(gate_warmup_steps=4)) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, config.gate_warmup_steps))


def questions_at(step: int, count: int, config: StageAConfig) -> list[int]:
    """Return which of `count` questions step `step` uses: a stream of shuffled epochs, cut into batches."""
    first = step * config.batch_size
    places = (divmod(place, count) for place in range(first, first + config.batch_size))
    return [int(order(count, config.seed, str(epoch))[offset]) for epoch, offset in places]


def budget_at(step: int, config: StageAConfig) -> int | None:
    """Return the token budget of step `step`, each of them once in a shuffled turn; None: all tokens, always."""
    if not config.budgets:
        return None
    turn, place = divmod(step, len(config.budgets))
    return config.budgets[order(len(config.budgets), config.seed, f"budgets {turn}")[place]]


@lru_cache(maxsize=4)
def order(count: int, seed: int, purpose: str) -> np.ndarray:
    """Return the permutation of `count` things, int64 [count], that seed and purpose fix."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).permutation(count)
