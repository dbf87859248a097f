"""What a step of Stage A uses, as functions of its number: phase, learning rates, gate, token budget.

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

from supervised.fusion.load import gate_parameters
from supervised.stage_a.config import StageAConfig

PHASES = (
    frozenset({"projector", "join"}),
    frozenset({"projector", "join", "fusion", "gate", "markers", "base"}),
    frozenset({"projector", "join", "fusion", "gate", "markers", "base"}),
)
"""Parts that each phase trains, as `parameter_groups` calls them; there is a `base` with `train_base` alone."""


def parameter_groups(
    adapter: nn.Module, config: StageAConfig, text_stack: nn.Module | None = None
) -> list[dict[str, Any]]:
    """Return AdamW's groups; each trainable parameter stands in exactly one.

    Only matrices decay: a decayed scale, gate or norm would fade, and a decayed marker would leave the base's
    embeddings. Every group keeps its peak rate as `peak_lr` and its part's name as `part`: projector, join, fusion,
    gate (the fusion's residual scales and learned gates), markers or base. Parameters that do not require a gradient
    at this moment are left out for good, so that this comes before a phase freezes any.

    Args:
        adapter: projector, fusion and markers.
        config: peak rates and decay.
        text_stack: of the base, to be trained at `fusion_lr` (`train_base`); None: the base is frozen.
    """
    rates = {
        "projector": config.projector_lr,
        "join": config.projector_lr,
        "fusion": config.fusion_lr,
        "gate": config.gate_lr,
        "markers": config.marker_lr,
        "base": config.fusion_lr,
    }
    fusion = getattr(adapter, "fusion", None)
    gates = set() if fusion is None else {id(parameter) for parameter in gate_parameters(fusion)}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in adapter.named_parameters():
        if parameter.requires_grad:
            part = "gate" if id(parameter) in gates else name.split(".", 1)[0]
            decays = part not in ("markers", "gate") and parameter.ndim > 1
            groups.setdefault((part, decays), []).append(parameter)
    for parameter in () if text_stack is None else text_stack.parameters():
        if parameter.requires_grad:
            groups.setdefault(("base", parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "part": part,
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
    """Return the linear warm-up, then cosines from 1 to near 0; in the last phase `small_rate` times that.

    Warm restarts are those of SGDR (Loshchilov and Hutter, arXiv:1608.03983, equation 5, T_mult = 1): the steps after
    the warm-up are cut into `restarts` + 1 equal cycles, each a whole cosine.

    >>> [round(rate_factor(step, StageAConfig(steps=6, warmup_steps=2)), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    >>> [round(rate_factor(step, StageAConfig(steps=6, warmup_steps=0, restarts=1)), 3) for step in range(6)]
    [1.0, 0.75, 0.25, 1.0, 0.75, 0.25]
    """
    small = config.small_rate if phase_at(step, config) == len(PHASES) - 1 else 1.0
    if step < config.warmup_steps:
        return small * (step + 1) / config.warmup_steps
    total = max(1, config.steps - config.warmup_steps)
    # In whole numbers, so that a cycle begins exactly where it should.
    done = (step - config.warmup_steps) * (config.restarts + 1)
    done = min(done, total) if config.restarts == 0 else done % total
    return small * 0.5 * (1 + math.cos(math.pi * (done / total)))


def phase_at(step: int, config: StageAConfig) -> int:
    """Return the phase of step `step`, 0 to 2; borders are rounded to whole steps, a phase of no share has no step.

    >>> [phase_at(step, StageAConfig(steps=10, phases=(0.1, 0.6, 0.3))) for step in range(10)]
    [0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    """
    step = min(step, config.steps - 1)  # what comes after the last step belongs to its phase
    first, second, _ = config.phases
    return sum(step >= round(share * config.steps) for share in (first, first + second))


def freeze(optimizer: torch.optim.Optimizer, phase: int) -> None:
    """Let the parts of a phase require a gradient, and no others; what a frozen one still has is dropped.

    AdamW passes over a parameter without a gradient: neither its value nor its moments change, nor does it decay.
    """
    for group in optimizer.param_groups:
        trained = group["part"] in PHASES[phase]
        for parameter in group["params"]:
            parameter.requires_grad_(trained)
            if not trained:
                parameter.grad = None


def gate_at(step: int, config: StageAConfig) -> float:
    """Return the gate of step `step`: it starts above 0, where the adapter would be bypassed, and ends at 1.

    >>> [gate_at(step, StageAConfig(gate_warmup_steps=4)) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, config.gate_warmup_steps))


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
