"""What a training moves: a module, its optimiser, and the state that was best so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from supervised.safe_model import SafeModel
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.naive import trainable_stack
from supervised.stage_a.schedule import parameter_groups


@dataclass
class Trained:
    """Values that move, and those of the best evaluation."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    """AdamW over parameters of the module."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """State of the module at the best evaluation; empty before the first."""

    def keep_best(self) -> None:
        """Note the present values as the best."""
        self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def take_best(self) -> None:
        """Go back to the best values."""
        self.module.load_state_dict(self.best)

    def roll_back(self) -> None:
        """Go back to the best values, without the moments that led away from them."""
        self.take_best()
        self.optimizer.state.clear()


def trained_values(model: SafeModel, config: StageAConfig) -> Trained:
    """Return what Stage A trains: the adapter, and with `train_base` the base's text stack beside it."""
    stack = trainable_stack(model.base) if config.train_base else None
    module: nn.Module = model.adapter
    if stack is not None:
        module = nn.ModuleDict({"adapter": model.adapter, "base": stack})
    return Trained(module, torch.optim.AdamW(parameter_groups(model.adapter, config, stack), betas=(0.9, 0.999)))
