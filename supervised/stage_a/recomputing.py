"""Less memory for a training step: the base's layers keep their inputs, and compute the rest again on the way back.

Activation checkpointing (Chen et al., arXiv:1604.06174), put around each layer's forward. transformers' own switch
wants layers in training mode, which wakes their dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from supervised.injection import text_layers

CACHES = ("past_key_values", "past_key_value", "layer_past")
"""Arguments that a layer would append to a second time."""


@contextmanager
def recomputing(stack: Any) -> Iterator[None]:
    """Within the block, passes through the text `stack` that need a gradient keep the inputs of its layers only.

    Raises:
        ModelError: the stack has no list of layers.
    """
    layers = text_layers(stack)
    for layer in layers:
        layer.forward = _recomputed(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # that of the class is there again


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        kwargs = {name: None if name in CACHES else value for name, value in kwargs.items()}
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return call
