"""Latents that read the clip's frames: from (B, T, Da) to k tokens (B, k, D), in a space of few channels.

    frames = LayerNorm(tokens) W_in                                  (B, T, W), W the bottleneck
    x_0 = latents                                                    (k, W), learned
    y   = x_i + tanh(a_i) attention(LayerNorm(x_i), frames)          gated cross-attention
    x_i+1 = y + tanh(f_i) feed_forward(LayerNorm(y))                 gated feed-forward, 4:1
    told = LayerNorm(x_n) W_out                                      (B, k, D), at the base's embedding RMS

The Perceiver resampler and the gated block of Flamingo (arXiv:2204.14198, section 2.1 and 2.2) with two differences.
The gates start half open, not at 0: no pretrained signal passes through here that they would protect, and a closed one
would make the first steps deaf. Latents do not look at each other, so that the first b of them are what a budget of b
tokens buys. Frames bring their own sense of time, as the encoders' features do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supervised.attention import attend
from supervised.config import ProjectorConfig
from supervised.projectors.mlp import matched

GATE = 0.5
"""First value of a_i and f_i; tanh(0.5) = 0.46."""


class ResamplerProjector(nn.Module):
    """k latents and 1 to 4 gated cross-attention blocks, in float32."""

    def __init__(self, config: ProjectorConfig, token_dim: int, width: int, embedding_rms: float) -> None:
        super().__init__()
        inner = config.bottleneck
        self.norm = nn.LayerNorm(token_dim)
        self.enter = nn.Linear(token_dim, inner)
        self.latents = nn.Parameter(torch.randn(config.tokens, inner))  # (k, W)
        self.blocks = nn.ModuleList(_Block(inner, config.heads) for _ in range(config.layers))
        self.leave_norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, width)
        self.embedding_rms = embedding_rms

    def forward(self, tokens: Tensor, mask: Tensor, budget: int | None = None) -> Tensor:
        """Return (B, k, D) for tokens (B, T, Da) of which those with `mask` (B, T) count; (B, b, D) of a budget."""
        frames = self.enter(self.norm(tokens))  # (B, T, W)
        latents = self.latents[:budget].expand(len(tokens), -1, -1)  # (B, k, W)
        for block in self.blocks:
            latents = block(latents, frames, mask)
        return matched(self.leave(self.leave_norm(latents)), self.embedding_rms)


class _Block(nn.Module):
    """Cross-attention from latents to frames and a feed-forward, each behind a tanh gate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.attention_gate = nn.Parameter(torch.tensor(GATE))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.feed_forward_gate = nn.Parameter(torch.tensor(GATE))

    def forward(self, latents: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Return latents (B, k, W) that have read the frames (B, T, W) where `mask` (B, T)."""
        query = self.query(self.query_norm(latents))
        heard = attend(query, self.key(frames), self.value(frames), mask, self.heads)  # (B, k, W)
        latents = latents + self.attention_gate.tanh() * self.output(heard)
        return latents + self.feed_forward_gate.tanh() * self.feed_forward(latents)
