"""A low-rank deviation from the identity: x (..., D) in, x + (alpha / r) B A x (..., D) out.

LoRA (arXiv:2106.09685, section 4) adds B A to a frozen matrix. Here that matrix is the identity, so it is left out: the
deviation is all there is to store and to multiply with.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class LowRank(nn.Module):
    """The identity at first, because B starts at zero; A starts as peft draws it, so that B has a gradient."""

    def __init__(self, width: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Linear(width, rank, bias=False)  # A
        self.up = nn.Linear(rank, width, bias=False)  # B
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + (alpha / r) B A x, in the shape (..., D) of x."""
        deviation: Tensor = self.up(self.scale * self.down(x))
        return x + deviation
