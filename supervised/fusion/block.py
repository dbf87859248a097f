"""A transformer block as fusion: cross-attention to the audio tokens, then a feed-forward on what came of it.

    context = attention(h, A)                                        all four projections trained
    residual = capped(context + W2 gelu(W1 LayerNorm(h / unit + context)))        W1: D -> 4 D, W2: 4 D -> D

Pre-norm order (arXiv:2002.04745), the residual of both halves added to the stream at once. W2 starts at zero, so that
the block starts as the cross-attention alone; its gradient does not.
"""

from __future__ import annotations

from torch import Tensor, nn

from supervised.config import FusionConfig
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.parts import Listeners, Sound, capped


class BlockFusion(nn.Module):
    """Cross-attention and a feed-forward four times as wide, position by position."""

    def __init__(
        self, config: FusionConfig, width: int, embedding_rms: float, residual_scale: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.attention = CrossAttentionFusion(config, width, embedding_rms)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.residual_scale = residual_scale

    def forward(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return the residual (B, L, D), with `rms_match` of a root mean square of at most 1 at every position."""
        context = self.attention.context(listeners, sound)  # (B, L, D)
        inner = self.expand(self.norm(listeners.hidden / listeners.unit + context))  # (B, L, 4 D)
        total: Tensor = context + self.contract(nn.functional.gelu(inner))
        return capped(total) if self.attention.rms_match else total
