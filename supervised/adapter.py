"""The adapter, all that Stage A trains: audio projector, fusion and the two marker embeddings.

In: embeddings (B, L, D) of a frozen base, and what the encoder heard. Out: the same embeddings, with the sound in
those positions that may hear, bit for bit the same elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supervised.config import FusionConfig, ProjectorConfig
from supervised.encoder import AudioFeatures
from supervised.fusion import CrossAttentionFusion
from supervised.projector import AudioProjector

MARKERS = ("<audio>", "</audio>")


class Adapter(nn.Module):
    """Projector, fusion and markers; the parts are named for the optimiser's parameter groups."""

    def __init__(
        self,
        projector: ProjectorConfig,
        fusion: FusionConfig,
        token_dim: int,
        embedding_rms: float,
        embedding_mean: Tensor,
    ) -> None:
        super().__init__()
        width = len(embedding_mean)
        self.projector = AudioProjector(projector, token_dim, width, embedding_rms)
        self.fusion = CrossAttentionFusion(fusion, width, embedding_rms)
        self.markers = nn.Parameter(embedding_mean.float().repeat(len(MARKERS), 1))  # (2, D): <audio>, </audio>

    def forward(
        self, hidden: Tensor, audio: AudioFeatures, gate: float, hears: Tensor, budget: int | None = None
    ) -> Tensor:
        """Return `hidden` (B, L, D) in its dtype, fused where `hears` (B, L) and the row has audio.

        Args:
            hidden: merged input embeddings (B, L, D) of the base.
            audio: features of B rows.
            gate: in (0, 1]; 1 is the whole residual, 0 never comes here.
            hears: bool (B, L), False for padding and for the answer.
            budget: audio tokens that the prompt attends to, the first of k; None: all of them.
        """
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 scores and norms would cost accuracy
            fused = self.fusion(hidden, *self.tokens(audio, budget))  # (B, L, D), float32
            if gate < 1:
                fused = gate * fused + (1 - gate) * hidden.float()
        # Rows and positions that do not hear are chosen, not computed: x + 0 * y is not x for -0.0 and NaN.
        return torch.where((audio.present[:, None] & hears)[..., None], fused.to(hidden.dtype), hidden)

    def tokens(self, audio: AudioFeatures, budget: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, k + 2, D) that the prompt attends to, markers first and last, and their mask."""
        spoken = self.spoken(audio, budget)  # (B, k, D), or (B, b, D) of a budget
        begin, end = self.markers.expand(len(spoken), -1, -1).unsqueeze(2).unbind(1)  # (B, 1, D) each
        tokens = torch.cat([begin, spoken, end], 1)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def spoken(self, audio: AudioFeatures, budget: int | None = None) -> Tensor:
        """Return the projector's tokens (B, k, D), the first `budget` of them; those made before are not made again."""
        if audio.spoken is not None:
            return audio.spoken[:, :budget]
        with torch.autocast(audio.tokens.device.type, enabled=False):
            spoken: Tensor = self.projector(audio.tokens.float(), audio.mask, budget)
        return spoken
