"""From the audio encoder's tokens (B, T, Da) to k tokens (B, k, D) in the space of the base's text embeddings.

Each of the k tokens looks at the clip through a learned query (a weighted mean over the T tokens), and an MLP that
all share, with a code per token, translates what it saw. The result has the size of the base's text embeddings
(root mean square over the channels), whatever the clip's loudness.

No token depends on another, so the first b of them are what a budget of b tokens buys, at the price of b queries. They
are useful on their own where the training drew budgets (nested prefixes, as in Matryoshka representations,
arXiv:2205.13147).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supervised.attention import MASKED
from supervised.config import ProjectorConfig


class AudioProjector(nn.Module):
    """Attention pooling into k slots and an MLP of 1 to 4 linear layers, in float32."""

    def __init__(self, config: ProjectorConfig, token_dim: int, width: int, embedding_rms: float) -> None:
        super().__init__()
        hidden = (config.hidden or width) if config.layers > 1 else token_dim
        self.norm = nn.LayerNorm(token_dim)
        self.queries = nn.Parameter(torch.randn(config.tokens, token_dim))  # (k, Da)
        self.expand = nn.Linear(token_dim, hidden) if config.layers > 1 else None
        self.codes = nn.Parameter(0.5 * torch.randn(config.tokens, hidden))  # (k, H)
        self.middle = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(config.layers - 2))
        self.contract = nn.Linear(hidden, width)
        self.embedding_rms = embedding_rms

    def forward(self, tokens: Tensor, mask: Tensor, budget: int | None = None) -> Tensor:
        """Return (B, k, D) for tokens (B, T, Da) of which those with `mask` (B, T) count; (B, b, D) of a budget."""
        return self.translate(self.slots(tokens, mask, budget), budget)

    def slots(self, tokens: Tensor, mask: Tensor, budget: int | None = None) -> Tensor:
        """Return what each of the k tokens saw of the clip, (B, k, Da)."""
        heard = self.norm(tokens)  # (B, T, Da)
        scores = heard @ self.queries[:budget].T / heard.shape[-1] ** 0.5  # (B, T, k)
        weights = scores.masked_fill(~mask[..., None], MASKED).softmax(1)
        return weights.transpose(1, 2) @ heard

    def translate(self, slots: Tensor, budget: int | None = None) -> Tensor:
        """Return the tokens (B, k, D) that tell what the slots (B, k, Da) saw."""
        inner = slots if self.expand is None else self.expand(slots)
        inner = inner + self.codes[:budget]  # (B, k, H)
        if self.expand is not None:
            inner = nn.functional.gelu(inner)
        for layer in self.middle:
            inner = nn.functional.gelu(layer(inner))
        return matched(self.contract(inner), self.embedding_rms)


def matched(spoken: Tensor, embedding_rms: float) -> Tensor:
    """Return `spoken` (..., D) with a root mean square of `embedding_rms` over the channels."""
    return embedding_rms * nn.functional.rms_norm(spoken, spoken.shape[-1:], eps=1e-6)
