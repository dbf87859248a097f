"""From a configuration to the fusion modules that it names, one for every place that hears."""

from __future__ import annotations

import torch
from torch import nn

from supervised.config import FusionConfig
from supervised.fusion.block import BlockFusion
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.gated import GatedFusion

Fusion = CrossAttentionFusion | BlockFusion | GatedFusion


def new_fusion(config: FusionConfig, width: int, embedding_rms: float) -> nn.Module:
    """Return the fusion of the merged embeddings, or with `layers` a list of one for each of them.

    A residual scale that all layers share belongs to the first of them. Inserted tokens pass no fusion: an empty list.

    Raises:
        ModelError: the heads do not divide the width, or the rank is above it.
    """
    if config.injection == "tokens":
        return nn.ModuleList()
    if not config.layers:
        return _fusion(config, width, embedding_rms, shares=False)
    shares = config.residual != "per_layer"
    return nn.ModuleList(
        _fusion(config, width, embedding_rms, shares=shares and place > 0) for place in range(len(config.layers))
    )


def gate_parameters(fusion: nn.Module) -> list[nn.Parameter]:
    """Return what says how much passes, not which: residual scales, and of kind gated the network of the gate."""
    found: list[nn.Parameter] = []
    for module in fusion.modules():
        if isinstance(module, Fusion) and module.residual_scale is not None:
            found.append(module.residual_scale)
        if isinstance(module, GatedFusion):
            found += module.gate_parameters()
    return found


def _fusion(config: FusionConfig, width: int, embedding_rms: float, shares: bool) -> Fusion:
    """Return one fusion module; `shares`: without a residual scale of its own."""
    scale = None
    if not shares:  # 0-d: a parameter of one element promotes bfloat16
        scale = nn.Parameter(torch.tensor(float(config.residual_scale)), requires_grad=config.residual != "fixed")
    if config.kind == "block":
        return BlockFusion(config, width, embedding_rms, scale)
    if config.kind == "gated":
        return GatedFusion(config, width, embedding_rms, scale)
    return CrossAttentionFusion(config, width, embedding_rms, scale)
