"""Cross-attention from prompt embeddings (B, L, D) to audio tokens (B, K, D); the shape (B, L, D) does not change.

    h' = LayerNorm?(h),  Q = h' Wq,  K = A Wk,  V = A Wv
    fused = h + residual_scale * capped(attention(Q, K, V) Wo)

Everything is computed in float32 and in units of the base's embedding RMS. The four projections start as the
identity and stay frozen, so that audio tokens act as words of the base would: a position attends to the token that
resembles it and moves towards it. LoRA on Wq and Wv (arXiv:2106.09685) learns the deviation from that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from supervised.config import FusionConfig
from supervised.errors import ModelError
from supervised.projector import MASKED

SCORE_LIMIT = 50.0


class CrossAttentionFusion(nn.Module):
    """Adds what the audio tokens say to every position, as a residual of bounded size.

    The context is RMS-matched by a cap: at each position its root mean square is at most the base's embedding RMS,
    and may be less. Scaling it up to that size everywhere would forbid the adapter to be silent: a position whose
    question needs no audio would be pushed as far as any other, and only the direction could be learned. Under the
    cap a position can attend to the marker tokens, whose values start near zero (the mean embedding), and stay as it
    is. The cap works position by position, so that a prompt may be processed in chunks.
    """

    def __init__(self, config: FusionConfig, width: int, embedding_rms: float) -> None:
        super().__init__()
        if width % config.heads:
            raise ModelError(
                f"fusion.heads = {config.heads} does not divide the base's embedding width {width}; "
                f"use e.g. {max(heads for heads in (1, 2, 4, 8) if not width % heads)}."
            )
        self.heads = config.heads
        self.embedding_rms = embedding_rms
        self.query_norm: nn.Module = nn.LayerNorm(width) if config.query_norm else _Units(embedding_rms)
        self.query = _identity(width)
        self.key = _identity(width)
        self.value = _identity(width)
        self.output = _identity(width)
        self.residual_scale = nn.Parameter(
            torch.tensor(float(config.residual_scale))
        )  # 0-d: a 1-element one promotes bf16
        _add_lora(self, config)
        # peft has frozen every other parameter of the module; these two are ours to train.
        self.query_norm.requires_grad_(True)
        self.residual_scale.requires_grad_(config.learn_residual_scale)

    def forward(self, hidden: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return `hidden` (B, L, D) with what the tokens (B, K, D) where `mask` (B, K) say, in float32."""
        hidden = hidden.float()
        heard = tokens.float() / self.embedding_rms  # (B, K, D)
        query = self._split(self.query(self.query_norm(hidden)))  # (B, H, L, D / H)
        key = self._split(self.key(heard))  # (B, H, K, D / H)
        value = self._split(self.value(heard))  # (B, H, K, D / H)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, H, L, K)
        scores = scores.clamp(-SCORE_LIMIT, SCORE_LIMIT).masked_fill(~mask[:, None, None, :], MASKED)
        context = scores.softmax(-1) @ value  # (B, H, L, D / H)
        context = self.output(context.transpose(1, 2).flatten(2))  # (B, L, D)
        return hidden + self.residual_scale * self.embedding_rms * capped(context)

    def _split(self, x: Tensor) -> Tensor:
        """Return (B, H, L, D / H) for (B, L, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def capped(context: Tensor) -> Tensor:
    """Return `context` (..., D), scaled down to a root mean square of 1 where it has more."""
    power = context.square().mean(-1, keepdim=True)  # (..., 1)
    return context * power.clamp(min=1.0).rsqrt()


class _Units(nn.Module):
    """Divides by the base's embedding RMS."""

    def __init__(self, embedding_rms: float) -> None:
        super().__init__()
        self.embedding_rms = embedding_rms

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden / self.embedding_rms


def _identity(width: int) -> Any:
    """Return a linear map that returns its input; frozen."""
    linear = nn.Linear(width, width, bias=False)
    nn.init.eye_(linear.weight)
    return linear.requires_grad_(False)


def _add_lora(module: nn.Module, config: FusionConfig) -> None:
    """Wrap the query and value projections of `module` in LoRA layers, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, target_modules=["query", "value"]
    )
    inject_adapter_in_model(lora, module)
