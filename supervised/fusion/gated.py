"""LoRA cross-attention behind a gate per question, which looks at the prompt and at the audio.

    p = mean over the positions that hear of h / unit,   a = mean over the attended tokens of A / embedding RMS
    g = sigmoid(W2 gelu(W1 LayerNorm([p; a])) + b)       in (0, 1), one number per row
    residual = g capped(attention(h, A))

Padding and the answer do not hear, so that they have no say in g. W2 and b start at zero: g starts at 1/2 for every
question, where a sigmoid is steepest. The pooled prompt is that of one call: a prompt must come whole, in one chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supervised.config import FusionConfig
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.parts import Listeners, Sound

GATE_WIDTH = 64
LOGIT_LIMIT = 10.0
"""Logits stay within +-10, softly, so that g is neither 0 nor 1 in float32 and always has a slope."""


class GatedFusion(nn.Module):
    """Cross-attention scaled by an input-dependent gate."""

    def __init__(
        self, config: FusionConfig, width: int, embedding_rms: float, residual_scale: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.embedding_rms = embedding_rms
        self.attention = CrossAttentionFusion(config, width, embedding_rms)
        self.norm = nn.LayerNorm(2 * width)
        self.expand = nn.Linear(2 * width, GATE_WIDTH)
        self.contract = nn.Linear(GATE_WIDTH, 1)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.residual_scale = residual_scale

    def forward(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return the residual (B, L, D), with `rms_match` of a root mean square of at most g at every position."""
        return self.openness(listeners, sound)[:, None, None] * self.attention(listeners, sound)

    def openness(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return the gate g (B,) of every row."""
        prompt = _mean(listeners.hidden / listeners.unit, listeners.hears)  # (B, D)
        audio = _mean(sound.tokens / self.embedding_rms, sound.mask)  # (B, D)
        inner = nn.functional.gelu(self.expand(self.norm(torch.cat([prompt, audio], -1))))  # (B, 64)
        logits = self.contract(inner).squeeze(-1)
        return (LOGIT_LIMIT * (logits / LOGIT_LIMIT).tanh()).sigmoid()


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean (B, D) of `values` (B, N, D) over those that count (B, N); zero where none does."""
    total = values.where(counts[..., None], 0).sum(1)
    return total / counts.sum(1, keepdim=True).clamp(min=1)
