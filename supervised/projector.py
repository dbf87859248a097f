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

from supervised.config import ProjectorConfig

MASKED = -1e4
"""Score of a token that must not be seen; its weight is exactly 0 in float32, and no row is ever NaN."""


class AudioProjector(nn.Module):
    """Attention pooling into k slots and a two-layer MLP, in float32."""

    def __init__(self, config: ProjectorConfig, token_dim: int, width: int, embedding_rms: float) -> None:
        super().__init__()
        hidden = config.hidden or width
        self.norm = nn.LayerNorm(token_dim)
        self.queries = nn.Parameter(torch.randn(config.tokens, token_dim))  # (k, Da)
        self.expand = nn.Linear(token_dim, hidden)
        self.codes = nn.Parameter(0.5 * torch.randn(config.tokens, hidden))  # (k, H)
        self.contract = nn.Linear(hidden, width)
        self.embedding_rms = embedding_rms

    def forward(self, tokens: Tensor, mask: Tensor, budget: int | None = None) -> Tensor:
        """Return (B, k, D) for tokens (B, T, Da) of which those with `mask` (B, T) count; (B, b, D) of a budget."""
        heard = self.norm(tokens)  # (B, T, Da)
        scores = heard @ self.queries[:budget].T / heard.shape[-1] ** 0.5  # (B, T, k)
        weights = scores.masked_fill(~mask[..., None], MASKED).softmax(1)
        slots = weights.transpose(1, 2) @ heard  # (B, k, Da)
        spoken = self.contract(nn.functional.gelu(self.expand(slots) + self.codes[:budget]))  # (B, k, D)
        return self.embedding_rms * nn.functional.rms_norm(spoken, spoken.shape[-1:], eps=1e-6)
