"""From a configuration to the projector that it names."""

from __future__ import annotations

from supervised.config import ProjectorConfig
from supervised.errors import ModelError
from supervised.projectors.adaptive import AdaptiveProjector
from supervised.projectors.mlp import AudioProjector
from supervised.projectors.resampler import ResamplerProjector

WIDEST = 16
"""Layers of a projector are at most so many times as wide as the base."""
Projector = AudioProjector | AdaptiveProjector | ResamplerProjector


def new_projector(config: ProjectorConfig, token_dim: int, width: int, embedding_rms: float) -> Projector:
    """Return an untrained projector from tokens of `token_dim` channels to the base's `width`.

    Raises:
        ModelError: a layer of it would be far wider than the base.
    """
    name = "bottleneck" if config.kind == "resampler" else "hidden"
    inner = getattr(config, name)
    if inner is not None and inner > WIDEST * width:
        raise ModelError(
            f"projector.{name} is {inner}, but the base's embeddings have a width of {width}; "
            f"use at most {WIDEST} times that, {WIDEST * width}."
        )
    if config.kind == "adaptive":
        return AdaptiveProjector(config, token_dim, width, embedding_rms)
    if config.kind == "resampler":
        return ResamplerProjector(config, token_dim, width, embedding_rms)
    return AudioProjector(config, token_dim, width, embedding_rms)
