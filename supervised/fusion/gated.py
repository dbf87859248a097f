"""LoRA cross-attention behind a gate per question, which looks at the prompt and at the audio.

    p = sum_i w_i h_i / unit,   w = softmax(h_i / unit . q / sqrt(D))       over the positions that hear
    a = mean over the attended tokens of A / embedding RMS
    g = sigmoid(W2 gelu(W1 [LayerNorm(p); LayerNorm(a)]) + b)               in (0, 1), one number per row
    residual = g capped(attention(h, A))

A prompt may be hundreds of positions of picture and ten words: a plain mean would drown the words, so the query q
learns where to look. Padding and the answer do not hear, so that they have no say in g. W2, b and q start at zero: p is
the mean at first, and g starts at 1/2 for every question, where a sigmoid is steepest. The pooled prompt is that of one
call: a prompt must come whole, in one chunk.
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
        self.look = nn.Linear(width, 1, bias=False)
        self.prompt_norm = nn.LayerNorm(width)
        self.audio_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(2 * width, GATE_WIDTH)
        self.contract = nn.Linear(GATE_WIDTH, 1)
        nn.init.zeros_(self.look.weight)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.residual_scale = residual_scale

    def forward(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return the residual (B, L, D), with `rms_match` of a root mean square of at most g at every position."""
        return self.openness(listeners, sound)[:, None, None] * self.attention(listeners, sound)

    def gate_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the gate alone, without those of the cross-attention."""
        parts = (self.look, self.prompt_norm, self.audio_norm, self.expand, self.contract)
        return [parameter for part in parts for parameter in part.parameters()]

    def openness(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return the gate g (B,) of every row."""
        states = listeners.hidden / listeners.unit  # (B, L, D)
        scores = self.look(states).squeeze(-1) / states.shape[-1] ** 0.5  # (B, L)
        prompt = _pooled(states, listeners.hears, scores.masked_fill(~listeners.hears, -1e4).softmax(-1))  # (B, D)
        audio = _pooled(sound.tokens / self.embedding_rms, sound.mask, 1 / sound.mask.sum(1, keepdim=True).clamp(min=1))
        inner = self.expand(torch.cat([self.prompt_norm(prompt), self.audio_norm(audio)], -1))  # (B, 64)
        return opened(self.contract(nn.functional.gelu(inner)))


def opened(logits: Tensor) -> Tensor:
    """Return the gates (B,), in (0, 1), that `logits` (B, 1) stand for."""
    return (LOGIT_LIMIT * (logits.squeeze(-1) / LOGIT_LIMIT).tanh()).sigmoid()


def _pooled(values: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Return the sum (B, D) of `values` (B, N, D), times `weights` (B, N) or (B, 1), over those that count (B, N)."""
    return (values * weights[..., None]).where(counts[..., None], 0).sum(1)
