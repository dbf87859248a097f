"""AdamW (Loshchilov and Hutter, arXiv:1711.05101): gradients of parameters go in, the parameters move in place.

The steps are those of `torch.optim.AdamW`, by torch's own functional form. The class would load torch's compiler, which
nothing here compiles with, and that takes about as long as a whole training of the exact agent.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch as th
from torch import nn
from torch.optim.adamw import adamw


class AdamW:
    """Moves parameters by their gradients, with torch's defaults for the averages; without decay it is Adam.

    Args:
        parameters: on the CPU; all of them have a gradient at every step.
        learning_rate: step size; may be set anew before any step.
        weight_decay: decay of the weights per step, as a share of the step size.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._mean = [th.zeros_like(parameter) for parameter in self.parameters]
        self._square = [th.zeros_like(parameter) for parameter in self.parameters]
        self._steps = [th.zeros(()) for _ in self.parameters]

    @th.no_grad()
    def step(self) -> None:
        """Take one step."""
        adamw(
            list(self.parameters),
            [parameter.grad for parameter in self.parameters if parameter.grad is not None],
            self._mean,
            self._square,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )
