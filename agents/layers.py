"""Linear layers as arrays: torch modules go in; what the NumPy-only `GatePolicy` computes with comes out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import nn

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Weight [out, in] and bias [out] of every layer, from input to logits."""


def linear_layers(modules: Iterable[nn.Module]) -> Layers:
    """Return copies of the weights and biases of those modules that are linear."""
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    return [(layer.weight.detach().cpu().numpy().copy(), layer.bias.detach().cpu().numpy().copy()) for layer in linear]
