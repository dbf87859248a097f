"""What the encoders heard, in one width: the first, trained step of an adapter for an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supervised.encoders.features import AudioFeatures


class JoinedTokens(nn.Module):
    """A linear map per encoder to the widest encoder's width; of a single encoder its tokens as they are."""

    def __init__(self, parts: Sequence[tuple[int, int]]) -> None:
        """Take each encoder's number and width of tokens, as `AudioEncoder.parts` has them; (): there is one."""
        super().__init__()
        self.parts = tuple(parts)
        widths = [width for _, width in self.parts]
        self.maps = nn.ModuleList(nn.Linear(width, max(widths)) for width in widths if len(widths) > 1)

    def forward(self, audio: AudioFeatures) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T, Da), Da that of the widest encoder, in float32, and their mask (B, T)."""
        tokens = audio.tokens.float()  # (B, T, Da)
        if not self.maps:
            return tokens, audio.mask
        each = tokens.split([count for count, _ in self.parts], 1)
        joined = [
            project(part[..., :width]) for project, part, (_, width) in zip(self.maps, each, self.parts, strict=True)
        ]
        return torch.cat(joined, 1), audio.mask
