"""Questions that are ready, put into one batch: left-padded prompts, and the answers to learn, right-padded.

In: `Ready` questions of one model. Out: inputs of its base, on its device. An encoder-decoder gets the answers in its
decoder; otherwise they follow the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from supervised.base import decoder_start, has_encoder, has_position_table, token_positions
from supervised.encoders.features import AudioFeatures
from supervised.losses import IGNORED
from supervised.safe_model import SafeModel
from supervised.stage_a.preparing import Ready, apart


@dataclass(frozen=True)
class Batch:
    """B questions; K = longest answer with its end token, L = longest prompt + K, of an encoder-decoder without K."""

    rows: list[int]
    """Where the questions stand among the examples."""
    inputs: dict[str, Any]
    """input_ids, attention_mask (B, L) and the base's other inputs."""
    prompt_mask: Tensor
    """bool (B, L): True where a prompt's own token stands, so neither padding nor answer; only these may hear."""
    labels: Tensor
    """int64 (B, K): the answers' token ids, then `IGNORED`."""
    audio: AudioFeatures
    images: Any
    retention: Tensor
    """bool (B,): the question needs no audio."""
    ready: Sequence[Ready] = ()
    """What it is made of."""


def make_batch(model: SafeModel, rows: Sequence[int], ready: Sequence[Ready]) -> Batch:
    """Return the `ready` questions with their answers, for a forward pass."""
    base, device, pad = model.base, model.device, _pad(model)
    ids, attended = _prompts(ready, pad)  # (B, P)
    prompted = attended.bool()
    labels = pad_sequence([each.target for each in ready], batch_first=True, padding_value=IGNORED)  # (B, K)
    answered = labels.masked_fill(labels == IGNORED, pad)
    if has_encoder(base):
        inputs, images = _inputs(model, ready, ids, attended)
        start = torch.full_like(answered[:, :1], decoder_start(base))
        inputs["decoder_input_ids"] = torch.cat([start, answered[:, :-1]], 1).to(device)  # (B, K)
    else:
        ids, attended = (
            torch.cat([ids, answered], 1),
            torch.cat([attended, (labels != IGNORED).long()], 1),
        )  # (B, L)
        prompted = torch.cat([prompted, torch.zeros_like(labels, dtype=torch.bool)], 1)
        inputs, images = _inputs(model, ready, ids, attended)
        if has_position_table(base):  # `generate` tells them, too
            inputs["position_ids"] = token_positions(inputs["attention_mask"])
    retention = torch.tensor([each.question.retention_set is not None for each in ready], device=device)
    audio = _audio(model, ready)
    return Batch(list(rows), inputs, prompted.to(device), labels.to(device), audio, images, retention, ready)


def make_prompts(model: SafeModel, ready: Sequence[Ready]) -> tuple[dict[str, Any], AudioFeatures, Any]:
    """Return inputs, audio and images of the `ready` questions, left-padded, for `generate`."""
    inputs, images = _inputs(model, ready, *_prompts(ready, _pad(model)))
    return inputs, _audio(model, ready), images


def _pad(model: SafeModel) -> int:
    return int(model.processor.tokenizer.pad_token_id or 0)


def _prompts(ready: Sequence[Ready], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask (B, P) of the prompts, left-padded."""
    length = max(len(each.prompt) for each in ready)
    ids = torch.full((len(ready), length), pad)
    attended = torch.zeros_like(ids)
    for i, each in enumerate(ready):
        begin = length - len(each.prompt)
        ids[i, begin:], attended[i, begin:] = each.prompt, 1
    return ids, attended


def _inputs(model: SafeModel, ready: Sequence[Ready], ids: Tensor, attended: Tensor) -> tuple[dict[str, Any], Any]:
    """Return the base's inputs, and the pictures' features where they are at hand."""
    device = model.device
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": attended.to(device)}
    for name in {name: None for each in ready for name in each.rest}:
        having = [i for i, each in enumerate(ready) if name in each.rest]
        values = [ready[i].rest[name] for i in having]
        if apart(name):  # padded per chunk, masked by a mask of its own
            inputs[name] = pad_sequence([value[0] for value in values], batch_first=True).to(device)
        elif all(value.shape == (1, len(ready[i].prompt)) for i, value in zip(having, values, strict=True)):
            under = torch.zeros_like(ids, dtype=values[0].dtype)  # padding and answer get 0, the type of text
            for i, value in zip(having, values, strict=True):
                begin = int(attended[i].argmax())  # the first real token
                under[i, begin : begin + value.shape[1]] = value[0]
            inputs[name] = under.to(device)
        else:
            inputs[name] = torch.cat(values).to(device)
    features = [feature for each in ready for feature in each.images]
    if not features:
        return inputs, None
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return inputs, BaseModelOutputWithPooling(pooler_output=features)


def _audio(model: SafeModel, ready: Sequence[Ready]) -> AudioFeatures:
    """Return the features of every question where the model computes."""
    return AudioFeatures.concatenate([each.audio for each in ready]).to(model.device)
