"""Cross-attention from hidden states (B, L, D) to audio tokens (B, K, D): the residual (B, L, D), in units.

    h' = LayerNorm?(h),  Q = h' Wq,  K = A Wk,  V = A Wv
    residual = capped(attention(Q, K, V) Wo)                                      without rms_match not capped

Everything is computed in float32; audio tokens count in units of the base's embedding RMS. The four projections start
as the identity, so that audio tokens act as words of the base would: a position attends to the token that resembles
it and moves towards it. Kinds cross_attention and block train all four. Kinds lora and gated train low-rank deviations
of Wq and Wv; Wk and Wo stay the identity, and are not there.
"""

from __future__ import annotations

from torch import Tensor, nn

from supervised.attention import attend
from supervised.config import FusionConfig
from supervised.errors import ModelError
from supervised.fusion.lora import LowRank
from supervised.fusion.parts import Listeners, Sound, capped


class CrossAttentionFusion(nn.Module):
    """What the audio tokens say to every position, bounded.

    The context is RMS-matched by a cap: at each position its root mean square is at most one unit, the size of the
    hidden states, and may be less. Scaling it up to that size everywhere would forbid the adapter to be silent: a
    position whose question needs no audio would be pushed as far as any other, and only the direction could be
    learned. Under the cap a position can attend to the marker tokens, whose values start near zero (the mean
    embedding), and stay as it is. The cap works position by position, so that a prompt may be processed in chunks.
    Without `rms_match` there is no cap, and nothing bounds the residual.
    """

    def __init__(
        self, config: FusionConfig, width: int, embedding_rms: float, residual_scale: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        if width % config.heads:
            raise ModelError(
                f"fusion.heads = {config.heads} does not divide the base's embedding width {width}; "
                f"use e.g. {max(heads for heads in (1, 2, 4, 8) if not width % heads)}."
            )
        if config.low_rank and config.lora_rank > width:
            raise ModelError(
                f"fusion.lora_rank is {config.lora_rank}, but the base's embeddings have a width of {width}; "
                f"use 1 to {width}, or fusion.kind cross_attention for whole matrices."
            )
        self.heads = config.heads
        self.rms_match = config.rms_match
        self.embedding_rms = embedding_rms
        self.query_norm = nn.LayerNorm(width) if config.query_norm else None
        if config.low_rank:
            self.query: nn.Module = LowRank(width, config.lora_rank, config.lora_alpha)
            self.key: nn.Module = nn.Identity()
            self.value: nn.Module = LowRank(width, config.lora_rank, config.lora_alpha)
            self.output: nn.Module = nn.Identity()
        else:
            self.query, self.key, self.value, self.output = (_identity(width) for _ in range(4))
        self.residual_scale = residual_scale

    def forward(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return the residual (B, L, D), with `rms_match` of a root mean square of at most 1 at every position."""
        context = self.context(listeners, sound)  # (B, L, D)
        return capped(context) if self.rms_match else context

    def context(self, listeners: Listeners, sound: Sound) -> Tensor:
        """Return what every position took from the tokens, (B, L, D), before the cap."""
        hidden = listeners.hidden
        heard = sound.tokens / self.embedding_rms  # (B, K, D)
        query = self.query(hidden / listeners.unit if self.query_norm is None else self.query_norm(hidden))
        seen = attend(query, self.key(heard), self.value(heard), sound.mask, self.heads, sound.gates)  # (B, L, D)
        context: Tensor = self.output(seen)
        return context


def _identity(width: int) -> nn.Linear:
    """Return a linear map that returns its input."""
    linear = nn.Linear(width, width, bias=False)
    nn.init.eye_(linear.weight)
    return linear
