"""From a configuration to the projector that it names."""

from __future__ import annotations

from supervised.config import ProjectorConfig
from supervised.projectors.adaptive import AdaptiveProjector
from supervised.projectors.mlp import AudioProjector
from supervised.projectors.resampler import ResamplerProjector

Projector = AudioProjector | AdaptiveProjector | ResamplerProjector


def new_projector(config: ProjectorConfig, token_dim: int, width: int, embedding_rms: float) -> Projector:
    """Return an untrained projector from tokens of `token_dim` channels to the base's `width`."""
    if config.kind == "adaptive":
        return AdaptiveProjector(config, token_dim, width, embedding_rms)
    if config.kind == "resampler":
        return ResamplerProjector(config, token_dim, width, embedding_rms)
    return AudioProjector(config, token_dim, width, embedding_rms)
