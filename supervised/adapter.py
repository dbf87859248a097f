"""The adapter, all that Stage A trains: audio projector, fusion and the two marker embeddings.

In: hidden states (B, L, D) of a frozen base, and what the encoder heard. Out: the same states, with the sound in
those positions that may hear, bit for bit the same elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supervised.config import FusionConfig, ProjectorConfig
from supervised.encoders.features import AudioFeatures
from supervised.encoders.joining import JoinedTokens
from supervised.errors import ModelError
from supervised.fusion.load import new_fusion
from supervised.fusion.parts import Listeners, Sound, sizes
from supervised.projectors.adaptive import AdaptiveProjector
from supervised.projectors.load import new_projector

MARKERS = ("<audio>", "</audio>")


class Adapter(nn.Module):
    """Projector, fusion and markers; the parts are named for the optimiser's parameter groups.

    The fusion has one place, the merged input embeddings, or one for each of `fusion.layers`; none for inserted tokens.
    """

    def __init__(
        self,
        projector: ProjectorConfig,
        fusion: FusionConfig,
        token_dim: int,
        embedding_rms: float,
        embedding_mean: Tensor,
        token_parts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Make it for an encoder with tokens of width `token_dim`, or for an ensemble with those `token_parts`."""
        super().__init__()
        width = len(embedding_mean)
        self.embedding_rms = embedding_rms
        self.places = 0 if fusion.injection == "tokens" else max(1, len(fusion.layers))
        """Number of places where the base's hidden states hear."""
        self.needs_whole_prompt = self.places > 0 and fusion.kind == "gated"
        """Whether all positions that hear must come in one call: a gate per question is computed from all of them."""
        self.count = projector.tokens
        """k: audio tokens of a clip at most, without the markers."""
        self.join = JoinedTokens(token_parts)
        self.projector = new_projector(projector, token_dim, width, embedding_rms)
        self.fusion = new_fusion(fusion, width, embedding_rms)
        self.dropout = nn.Dropout(fusion.dropout)
        """On the residual, only while the adapter is in training mode; all else is the same in both modes."""
        self.markers = nn.Parameter(embedding_mean.float().repeat(len(MARKERS), 1))  # (2, D): <audio>, </audio>

    def forward(
        self,
        hidden: Tensor,
        audio: AudioFeatures,
        gate: float,
        hears: Tensor,
        budget: int | None = None,
        place: int = 0,
    ) -> Tensor:
        """Return `hidden` (B, L, D) in its dtype, fused where `hears` (B, L) and the row has audio.

        Args:
            hidden: merged input embeddings (B, L, D) of the base, or what its layer `fusion.layers[place]` is given.
            audio: features of B rows.
            gate: in (0, 1]; 1 is the whole residual, 0 never comes here.
            hears: bool (B, L), False for padding and for the answer.
            budget: audio tokens that the prompt attends to, the first of k; None: all of them.
            place: which of the `places` this is.

        Raises:
            ConfigError: a budget for an adaptive projector.
            ModelError: the adapter inserts tokens and has no fusion.
        """
        if not self.places:
            raise ModelError("an adapter of inserted tokens fuses nothing; use `tokens`, or fusion.injection residual.")
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 scores and norms would cost accuracy
            fused = self._fused(hidden.float(), self._sound(audio, budget), hears, place)  # (B, L, D), float32
            if gate < 1:
                fused = gate * fused + (1 - gate) * hidden.float()
        # Rows and positions that do not hear are chosen, not computed: x + 0 * y is not x for -0.0 and NaN.
        return torch.where((audio.present[:, None] & hears)[..., None], fused.to(hidden.dtype), hidden)

    def tokens(self, audio: AudioFeatures, budget: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, k + 2, D), markers first and last, and the mask (B, k + 2) of those that count.

        They may stand in the base's own sequence: gates of an adaptive projector then learn through the size of the
        tokens they opened, which is 1 in value (straight-through).
        """
        sound = self._sound(audio, budget)
        if sound.gates is None:
            return sound.tokens, sound.mask
        soft = sound.gates.sigmoid()
        return sound.tokens * (sound.mask + (soft - soft.detach()))[..., None], sound.mask

    def spoken(self, audio: AudioFeatures, budget: int | None = None) -> Tensor:
        """Return the projector's tokens (B, k, D), the first `budget` of them; those made before are not made again.

        Tokens that an adaptive projector closed are zero, without a gradient for their gates.

        Raises:
            ConfigError: a budget for an adaptive projector.
        """
        if isinstance(self.projector, AdaptiveProjector):
            self.projector.refuse(budget)
        if audio.spoken is not None:
            return audio.spoken[:, :budget]
        with torch.autocast(audio.tokens.device.type, enabled=False):
            spoken: Tensor = self.projector(*self.join(audio), budget)
        return spoken

    def expected_tokens(self, audio: AudioFeatures) -> Tensor:
        """Return how many audio tokens each row is expected to use, float32 (B,); the gates learn from it.

        The sum of sigmoid(logit) over the gates of an adaptive projector; k, a constant, of the others. Rows without
        audio use none.
        """
        with torch.autocast(audio.tokens.device.type, enabled=False):
            if isinstance(self.projector, AdaptiveProjector):
                expected = self.projector.logits(*self.join(audio)).sigmoid().sum(-1)
            else:
                expected = torch.full((len(audio),), float(self.count), device=audio.present.device)
        return expected.where(audio.present, 0)

    def token_share(self, audio: AudioFeatures, clips: int | None = None) -> Tensor:
        """Return the share of the k audio tokens that a clip is expected to use, the mean over clips, float32 ().

        Between 0 (every gate closed) and 1, a number without a unit; the gates of an adaptive projector learn from it,
        so that a weight times it is a sparsity term of a loss. A constant 1 of the other kinds, and 0 without a clip.

        Args:
            audio: features.
            clips: of the whole batch, so that the shares of its parts add up to its own; None: these are the batch.
        """
        clips = int(audio.present.sum()) if clips is None else clips
        return self.expected_tokens(audio).sum() / (self.count * max(1, clips))

    @torch.no_grad()
    def used_tokens(self, audio: AudioFeatures, budget: int | None = None) -> Tensor:
        """Return how many audio tokens each row uses beside the markers, int64 (B,); rows without audio use none."""
        used = self._sound(audio, budget).mask.sum(-1) - len(MARKERS)
        return used.where(audio.present, 0)

    def _sound(self, audio: AudioFeatures, budget: int | None) -> Sound:
        """Return the tokens of every row between the markers."""
        gates = None
        if audio.spoken is None and isinstance(self.projector, AdaptiveProjector):
            with torch.autocast(audio.tokens.device.type, enabled=False):
                heard, counts = self.join(audio)
                spoken, logits = self.projector.gated(heard, counts, budget)  # (B, k, D), (B, k)
            mask = logits > 0
            gates = nn.functional.pad(logits, (1, 1), value=torch.inf)  # markers are always heard
        else:
            spoken = self.spoken(audio, budget)  # (B, k, D), or (B, b, D) of a budget
            mask = torch.ones(spoken.shape[:2], dtype=torch.bool, device=spoken.device)
            if isinstance(self.projector, AdaptiveProjector):
                mask = spoken.ne(0).any(-1)  # (B, k)
        begin, end = self.markers.expand(len(spoken), -1, -1).unsqueeze(2).unbind(1)  # (B, 1, D) each
        return Sound(torch.cat([begin, spoken, end], 1), nn.functional.pad(mask, (1, 1), value=True), gates)

    def _fused(self, hidden: Tensor, sound: Sound, hears: Tensor, place: int) -> Tensor:
        """Return float32 `hidden` (B, L, D) plus the residual of `place` at every position, also where none hears."""
        first: Any = self.fusion
        fusion: Any = self.fusion
        unit: float | Tensor = self.embedding_rms
        # Whatever stands where none hears, even NaN, must reach neither a pooled prompt nor a gradient.
        heard = hidden.where(hears[..., None], 0)
        if isinstance(self.fusion, nn.ModuleList):
            first, fusion = self.fusion[0], self.fusion[place]
            unit = sizes(heard)  # (B, L, 1): deeper states have sizes of their own, each layer and position another
        scale = first.residual_scale if fusion.residual_scale is None else fusion.residual_scale
        residual: Tensor = fusion(Listeners(heard, unit, hears), sound)  # (B, L, D)
        return hidden + scale * unit * self.dropout(residual)
