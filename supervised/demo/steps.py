"""What the pretraining loops of base and encoder share: optimiser steps under a one-cycle schedule, and precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

HALF = torch.autocast("cpu", dtype=torch.bfloat16)
"""Matrix products in bfloat16: twice as fast where the processor has the instructions; the weights stay float32."""
Progress = Callable[[str], None]
"""Takes a line that says how far a training is."""


def one_cycle(
    groups: Iterable[dict[str, Any]], lr: float, steps: int, betas: tuple[float, float]
) -> Iterator[Callable[[Tensor], None]]:
    """Yield, `steps` times, a function that takes a loss and makes one AdamW step, gradients clipped to norm 1.

    Args:
        groups: parameter groups of AdamW, each with its `weight_decay`.
        lr: peak learning rate, reached after a tenth of the steps.
        steps: of the whole cycle.
        betas: of AdamW.
    """
    optimizer = torch.optim.AdamW(list(groups), lr=lr, betas=betas)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    trained: list[nn.Parameter] = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def update(loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()

    for _ in range(steps):
        yield update
