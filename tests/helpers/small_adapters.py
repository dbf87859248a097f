"""Adapters of every kind for a base of width 8, and clips for them."""

from __future__ import annotations

from itertools import product
from typing import Literal

import pytest
import torch

from supervised.adapter import Adapter
from supervised.config import FusionConfig, ProjectorConfig
from supervised.encoders.features import AudioFeatures
from supervised.projectors.adaptive import AdaptiveProjector

Fusion = Literal["lora", "cross_attention", "block", "gated"]
PROJECTORS: tuple[Literal["mlp", "adaptive", "resampler"], ...] = ("mlp", "adaptive", "resampler")
FUSIONS: tuple[Fusion, ...] = ("lora", "cross_attention", "block", "gated")
LAYERS: tuple[tuple[int, ...], ...] = ((), (0, 3))
GRID = [
    pytest.param(
        ProjectorConfig(kind=projector, tokens=4, bottleneck=8, heads=2),
        FusionConfig(kind=fusion, layers=layers, heads=2, residual_scale=0.5, residual="per_layer"),
        id=f"{projector}-{fusion}-{len(layers)} layers",
    )
    for projector, fusion, layers in product(PROJECTORS, FUSIONS, LAYERS)
]


def new_adapter(projector: ProjectorConfig | None = None, fusion: FusionConfig | None = None) -> Adapter:
    torch.manual_seed(0)
    return Adapter(
        projector or ProjectorConfig(tokens=4),
        fusion or FusionConfig(heads=2, residual_scale=0.5),
        token_dim=6,
        embedding_rms=0.5,
        embedding_mean=torch.arange(8.0),
    )


def trained_adapter(projector: ProjectorConfig, fusion: FusionConfig) -> Adapter:
    """Return an adapter that has left its initial values, with one token of an adaptive projector closed."""
    adapter = new_adapter(projector, fusion)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if isinstance(adapter.projector, AdaptiveProjector):
            adapter.projector.openness[1] = -5.0
    return adapter


def new_features(present: list[bool]) -> AudioFeatures:
    there = torch.tensor(present)
    tokens = torch.randn(len(present), 5, 6) * there[:, None, None]
    return AudioFeatures(tokens, there[:, None].expand(-1, 5), there, torch.zeros(len(present), 3))


def everywhere(hidden: torch.Tensor) -> torch.Tensor:
    return torch.ones(hidden.shape[:2], dtype=torch.bool)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)
