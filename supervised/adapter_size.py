"""How many parameters an adapter has, from its configuration alone: nothing is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from supervised.adapter import Adapter
from supervised.config import FusionConfig, ProjectorConfig


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, float32 each."""

    trainable: int
    frozen: int


def parameter_counts(
    projector: ProjectorConfig,
    fusion: FusionConfig,
    token_dim: int,
    width: int,
    token_parts: Sequence[tuple[int, int]] = (),
) -> dict[str, Parameters]:
    """Return the parameters of projector, fusion and markers, and of the join of an ensemble of encoders.

    Args:
        projector: as the adapter's.
        fusion: as the adapter's.
        token_dim: width of the encoder's tokens.
        width: width of the base's text embeddings.
        token_parts: number and width of the tokens of every encoder in an ensemble; (): there is one.

    Raises:
        ModelError: heads, rank or the projector's layers do not fit `width`.

    >>> parameter_counts(ProjectorConfig(), FusionConfig(), 768, 4096)["markers"]
    Parameters(trainable=8192, frozen=0)
    """
    with torch.device("meta"):
        adapter = Adapter(projector, fusion, token_dim, 1.0, torch.zeros(width), token_parts)
    counts: dict[str, list[int]] = {}
    for name, parameter in adapter.named_parameters():
        part = counts.setdefault(name.split(".", 1)[0], [0, 0])
        part[0 if parameter.requires_grad else 1] += parameter.numel()
    return {part: Parameters(trainable, frozen) for part, (trainable, frozen) in counts.items()}
