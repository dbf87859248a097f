"""As many audio tokens as a clip needs: an MLP projector of up to 32 tokens (B, k, D), each behind a learned gate.

    logit of token j = w . slot_j + b_j        open where it is above 0, that is where sigmoid(logit) > 1/2

The gate of a token looks at what the token saw of the clip, so that a plain clip can be told in few tokens and a rich
one in many. A closed token is not attended to at all. The step from closed to open has no slope; training passes the
gradient of sigmoid(logit) through it (straight-through, arXiv:1308.3432). The sum of sigmoid(logit), the expected
number of open tokens, is what a sparsity term makes small.

At first w = 0 and b_j = 2: every token is open, on every clip. Nothing is drawn at random, so that training and
inference hear the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supervised.config import ProjectorConfig
from supervised.errors import ConfigError
from supervised.projectors.mlp import AudioProjector

OPEN = 2.0
"""First logit of every gate: sigmoid(2) = 0.88."""


class AdaptiveProjector(nn.Module):
    """An MLP projector with a gate per token and clip, in float32."""

    def __init__(self, config: ProjectorConfig, token_dim: int, width: int, embedding_rms: float) -> None:
        super().__init__()
        self.mlp = AudioProjector(config, token_dim, width, embedding_rms)
        self.gate = nn.Parameter(torch.zeros(token_dim))  # (Da,)
        self.openness = nn.Parameter(torch.full((config.tokens,), OPEN))  # (k,)

    def forward(self, tokens: Tensor, mask: Tensor, budget: int | None = None) -> Tensor:
        """Return (B, k, D) for tokens (B, T, Da) of which those with `mask` (B, T) count; closed tokens are zero.

        Raises:
            ConfigError: a budget is given.
        """
        spoken, gates = self.gated(tokens, mask, budget)
        return spoken.where(gates[..., None] > 0, 0)

    def gated(self, tokens: Tensor, mask: Tensor, budget: int | None = None) -> tuple[Tensor, Tensor]:
        """Return all tokens (B, k, D), also the closed ones, and the logits of their gates (B, k).

        Raises:
            ConfigError: a budget is given.
        """
        self.refuse(budget)
        slots = self.mlp.slots(tokens, mask)  # (B, k, Da)
        return self.mlp.translate(slots), self._logits(slots)

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of the gates (B, k) alone; no token is made."""
        return self._logits(self.mlp.slots(tokens, mask))

    def _logits(self, slots: Tensor) -> Tensor:
        """Return the logits (B, k) for slots (B, k, Da)."""
        return slots @ self.gate + self.openness

    def refuse(self, budget: int | None) -> None:
        """Refuse a budget: which tokens are open depends on the clip, not on their order.

        Raises:
            ConfigError: it is not None.
        """
        if budget is not None:
            raise ConfigError(
                f"a budget of {budget} tokens was given, but the adaptive projector chooses the number of tokens of "
                "each clip; leave the budget out, or use model.projector.kind mlp or resampler."
            )
