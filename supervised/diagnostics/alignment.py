"""Where audio tokens lie: their cosine with the tokens of the picture and with the base's word embeddings.

Cosines of raw embeddings all share the direction of their mean, so that each is told against its own null: a clip's
tokens with the picture of its own question, and with that of another one. Alignment is the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supervised.diagnostics.observing import states_of
from supervised.diagnostics.questions import Questions
from supervised.pictures import Pictures
from supervised.safe_model import SafeModel

WORDS = 3
"""Nearest words told of every audio token."""
CLIPS = 64
"""Clips, and their pictures, that are compared."""


@torch.no_grad()
def alignment(model: SafeModel, batches: Sequence[Questions]) -> dict[str, Any]:
    """Return the cosines of the first clips' audio tokens; those with pictures are None where there is no picture."""
    spoken: list[Tensor] = []
    pictures: list[Tensor | None] = []
    for batch in batches:
        if len(spoken) >= CLIPS:
            break
        spoken += list(model.adapter.spoken(batch.audio).float())  # (k, D) each
        pictures += vision_tokens(model, batch)
    spoken, pictures = spoken[:CLIPS], pictures[:CLIPS]
    seen = [(audio, picture) for audio, picture in zip(spoken, pictures, strict=True) if picture is not None]
    vision = None
    if len(seen) > 1:
        pairs = [(audio, picture, seen[n - 1][1]) for n, (audio, picture) in enumerate(seen)]
        own = torch.stack([cosines(audio, picture).mean(1) for audio, picture, _ in pairs])  # (C, k)
        other = torch.stack([cosines(audio, another).mean(1) for audio, _, another in pairs])  # (C, k)
        nearest = torch.stack([cosines(audio, picture).amax(1) for audio, picture, _ in pairs])  # (C, k)
        vision = {
            "own": float(own.mean()),
            "other": float(other.mean()),
            "difference": float(own.mean() - other.mean()),
            "nearest": float(nearest.mean()),
            "own_per_token": own.mean(0).tolist(),
            "other_per_token": other.mean(0).tolist(),
            "nearest_per_token": nearest.mean(0).tolist(),
        }
    return {"clips": len(spoken), "vision": vision, "text": _text(model, torch.stack(spoken))}


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of every row of `first` (n, D) with every row of `second` (m, D), (n, m)."""
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T


def vision_tokens(model: SafeModel, batch: Questions) -> list[Tensor | None]:
    """Return the picture's tokens (p, D) of every question as they enter the first layer; None without a picture."""
    ids = batch.inputs["input_ids"]  # (B, L)
    tokens = sorted(Pictures(model.base).tokens)
    shown = torch.isin(ids, torch.tensor(tokens, dtype=ids.dtype, device=ids.device))
    output = model.generate(batch.inputs, images=batch.images, max_new_tokens=1, output_hidden_states=True)
    merged = states_of(output)[0].float()  # (B, L, D)
    return [states[where] if bool(where.any()) else None for states, where in zip(merged, shown, strict=True)]


def _text(model: SafeModel, spoken: Tensor) -> dict[str, Any]:
    """Return the cosines of audio tokens (C, k, D) with the base's word embeddings, and the nearest words."""
    embed = model.base.get_input_embeddings()
    table = embed(torch.arange(embed.weight.shape[0], device=embed.weight.device)).float()  # (V, D)
    used = table.abs().amax(1) > 0
    table = table.where(used[:, None], 0)
    found = torch.stack([cosines(audio, table) for audio in spoken])  # (C, k, V)
    nearest = found.amax(2)  # (C, k)
    # Of all clips together: the words that an audio token stands near to most often.
    frequent = []
    for token in range(found.shape[1]):
        words = torch.bincount(found[:, token].argmax(1), minlength=len(table))
        top = [int(i) for i in words.topk(WORDS).indices if words[i]]
        frequent.append({model.processor.tokenizer.convert_ids_to_tokens(i): int(words[i]) for i in top})
    return {
        "mean": float(found[..., used].mean()),
        "nearest": float(nearest.mean()),
        "nearest_per_token": nearest.mean(0).tolist(),
        "nearest_words": frequent,
    }
