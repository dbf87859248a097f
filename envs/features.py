"""The state that a decision reads, from what one base pass leaves behind: question, image and confidence features.

question    last hidden states of the base (cascade) or its input embeddings (router), mean over the text tokens
image       vision features, mean over the picture's tokens; zero where there is no picture
confidence  entropy, top probability and margin of the first token; log-likelihood and length of the answer; mean
            entropy over it

All of it is known before any audio is paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

CONFIDENCE = ("entropy", "top probability", "margin", "log-likelihood", "length", "mean entropy")
"""The columns of the confidence features, in their order."""
_IMPOSSIBLE = -1e4
"""Stands for log 0: finite, so that 0 * log 0 is 0."""


def text_mask(model: Any, inputs: Any) -> torch.Tensor:
    """Return bool [B, L]: prompt tokens that are text, neither padding nor picture nor any other special token.

    The words of the chat template count too; they are the same in every prompt and add a constant.
    """
    import torch

    ids = inputs["input_ids"]
    special = torch.tensor(model.processor.tokenizer.all_special_ids, device=ids.device)
    return inputs["attention_mask"].bool() & ~image_mask(model, inputs) & ~torch.isin(ids, special)


def image_mask(model: Any, inputs: Any) -> torch.Tensor:
    """Return bool [B, L]: places of the picture's tokens."""
    import torch

    ids = inputs["input_ids"]
    image_id = getattr(model.base.config, "image_token_id", None)
    return torch.zeros_like(ids, dtype=torch.bool) if image_id is None else ids == image_id


def mean_over(states: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Return the mean of `states` [B, L, D] over the marked places, float32 [B, D]; zero where none is marked."""
    weight = mask.unsqueeze(-1).float()  # [B, L, 1]
    total = (states.float() * weight).sum(dim=1)
    return np.asarray((total / weight.sum(dim=1).clamp(min=1)).cpu().numpy(), dtype=np.float32)


def question_features(model: Any, inputs: Any, hidden: torch.Tensor | None) -> np.ndarray:
    """Return the question features, float32 [B, D].

    Args:
        model: The SafeModel.
        inputs: The batch of prompts.
        hidden: Last hidden states of the prompt [B, L, D]; None (router): the input embeddings are used.
    """
    states = model.base.get_input_embeddings()(inputs["input_ids"]) if hidden is None else hidden
    return mean_over(states, text_mask(model, inputs))


def image_features(model: Any, inputs: Any, vision: Any, hidden: torch.Tensor, present: Sequence[bool]) -> np.ndarray:
    """Return the image features, float32 [B, D].

    Args:
        model: The SafeModel.
        inputs: The batch of prompts.
        vision: Vision features, one entry [tokens, D] per picture; None where the base cannot share them: then the
            hidden states at the picture's places are pooled.
        hidden: Last hidden states of the prompt (cascade), or its merged input embeddings (router) [B, L, D].
        present: Whether each question has a picture, [B].
    """
    if vision is None:
        return mean_over(hidden, image_mask(model, inputs))
    pooled = [entry.float().reshape(-1, entry.shape[-1]).mean(dim=0).cpu().numpy() for entry in vision]
    result = np.zeros((len(present), len(pooled[0]) if pooled else hidden.shape[-1]), dtype=np.float32)
    if pooled:
        result[np.flatnonzero(present)] = np.stack(pooled)
    return result


def confidence_features(logits: Sequence[torch.Tensor], tokens: torch.Tensor, lengths: np.ndarray) -> np.ndarray:
    """Return the confidence features, float32 [B, 6].

    Args:
        logits: Logits of every step, T tensors [B, V].
        tokens: The answer's tokens [B, T].
        lengths: Tokens of every answer, its end token included, [B]; what follows is padding.
    """
    import torch

    count = torch.as_tensor(lengths, device=tokens.device)
    likelihood = torch.zeros(len(tokens), device=tokens.device)
    total = torch.zeros(len(tokens), device=tokens.device)
    first: list[torch.Tensor] = []
    for step, raw in enumerate(logits):  # one step at a time: a vocabulary is large
        log_probability = raw.float().log_softmax(dim=-1).clamp(min=_IMPOSSIBLE)  # [B, V]
        entropy = -(log_probability.exp() * log_probability).sum(dim=-1)  # [B]
        if step == 0:
            top = log_probability.topk(2, dim=-1).values.exp()  # [B, 2]
            first = [entropy, top[:, 0], top[:, 0] - top[:, 1]]
        inside = step < count
        likelihood += torch.where(inside, log_probability.gather(-1, tokens[:, step : step + 1])[:, 0], 0.0)
        total += torch.where(inside, entropy, 0.0)
    values = [*first, likelihood, count.float(), total / count.clamp(min=1)]
    return np.asarray(torch.stack(values, dim=1).cpu().numpy(), dtype=np.float32)


def answer_lengths(tokens: torch.Tensor, end_ids: Sequence[int]) -> np.ndarray:
    """Return how many tokens each answer has, up to and including its end token, int64 [B]."""
    import torch

    ended = torch.isin(tokens, torch.tensor(list(end_ids), device=tokens.device))  # [B, T]
    before = (ended.long().cumsum(dim=1) - ended.long()) == 0  # no end token earlier
    return np.asarray(before.sum(dim=1).cpu().numpy(), dtype=np.int64)


def as_stored(features: np.ndarray, dtype: str) -> np.ndarray:
    """Return features in the type they are stored in; float16 holds no more than 65504, so larger ones are cut."""
    if dtype == "float16":
        limit = float(np.finfo(np.float16).max)
        return np.clip(features, -limit, limit).astype(np.float16)
    return np.asarray(features, dtype=dtype)
