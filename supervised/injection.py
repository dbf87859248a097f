"""Lets a base hear for the length of one call: a forward pre-hook on its text stack, gone when the call ends.

The hook replaces the merged input embeddings of the prompt's positions. Its state belongs to one call in one thread:
nothing is stored on the base, so that a later call, or another thread, never meets the audio of this one. Sequence
length, positions and masks of the base do not change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supervised.adapter import Adapter
from supervised.base import LOAD_ERRORS, embedding_width, first_line
from supervised.encoder import AudioFeatures
from supervised.errors import ModelError

_LOCK = threading.Lock()  # torch numbers hooks with a plain counter: two threads could get one number
_HEARING = threading.local()


@dataclass
class _Call:
    """What the hook knows of the call it serves."""

    audio: AudioFeatures
    gate: float
    hears: Tensor  # bool (B, L): positions of the prompt that may hear
    budget: int | None
    thread: int
    position: int = 0
    """Positions that the key-value cache holds; counted here, because a static cache does not tell without a sync."""


@contextmanager
def hearing(
    stack: Any, adapter: Adapter, audio: AudioFeatures, gate: float, hears: Tensor, budget: int | None = None
) -> Iterator[None]:
    """Within the block, calls of `stack` by this thread get prompt embeddings that contain the audio.

    Args:
        stack: the module that takes the merged `inputs_embeds`.
        adapter: fuses embeddings and audio.
        audio: a row per row of the prompt; `generate` may repeat rows in place (beams).
        gate: in (0, 1].
        hears: bool (B, L), True for the positions of the prompt that may hear.
        budget: audio tokens to attend to; None: all of them.

    Raises:
        ModelError: this thread is within such a block already, so that the audio would be fused twice.
    """
    if getattr(_HEARING, "now", False):
        raise ModelError("a call with audio started within another call with audio in one thread; end the first.")
    call = _Call(audio, gate, hears, budget, threading.get_ident())

    # Without kwargs torch calls a hook that another thread is just adding or removing: not ours then.
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]] | None:
        if kwargs is None or threading.get_ident() != call.thread or kwargs.get("inputs_embeds") is None:
            return None  # torch then passes on the original objects
        fused = _fuse(adapter, call, kwargs["inputs_embeds"], cached=kwargs.get("past_key_values") is not None)
        return None if fused is None else (args, {**kwargs, "inputs_embeds": fused})

    with _LOCK:
        handle = stack.register_forward_pre_hook(hook, with_kwargs=True)
    _HEARING.now = True
    try:
        yield
    finally:
        _HEARING.now = False
        with _LOCK:
            handle.remove()


def _fuse(adapter: Adapter, call: _Call, hidden: Tensor, cached: bool) -> Tensor | None:
    """Return `hidden` (B, L, D) with its prompt positions fused, or None where it has none."""
    start = 0
    if cached:  # a step or a chunk; without a cache every call brings the whole sequence
        start, call.position = call.position, call.position + hidden.shape[1]
    count = min(hidden.shape[1], call.hears.shape[1] - start)
    if count <= 0:
        return None
    times, rest = divmod(len(hidden), len(call.audio))
    if rest:
        raise ModelError(f"{len(hidden)} rows reached the text stack for {len(call.audio)} clips; give one per row.")
    hears = call.hears[:, start : start + count].repeat_interleave(times, 0)  # (B, count)
    fused = adapter(hidden[:, :count], call.audio.repeat(times), call.gate, hears, call.budget)  # (B, count, D)
    return fused if count == hidden.shape[1] else torch.cat([fused, hidden[:, count:]], 1)


@torch.no_grad()
def probe(base: Any, stack: Any) -> None:
    """Make sure that audio can enter: the base passes its embeddings to `stack` by name, and their values count.

    Raises:
        ModelError: it does not, and why.
    """
    name = f"base {type(base).__name__}"
    image_token = getattr(base.config, "image_token_id", None)
    ids = [i for i in range(base.get_input_embeddings().weight.shape[0]) if i != image_token][1:4]
    inputs = {"input_ids": torch.tensor([ids], device=stack.device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    seen: list[Tensor | None] = []

    def move(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        hidden = kwargs.get("inputs_embeds")
        seen.append(hidden)
        # Reversed channels: a vector of the same size that means something else.
        return None if hidden is None else (args, {**kwargs, "inputs_embeds": hidden.flip(-1)})

    try:
        plain = base(**inputs).logits
        handle = stack.register_forward_pre_hook(move, with_kwargs=True)
        try:
            moved = base(**inputs).logits
        finally:
            handle.remove()
    except LOAD_ERRORS as error:
        raise ModelError(f"{name} cannot answer a text-only probe ({first_line(error)}); give e.g. a LLaVA.") from error
    if not seen or seen[0] is None:
        raise ModelError(
            f"{name} does not pass inputs_embeds to its text stack {type(stack).__name__}, so audio cannot enter; "
            "give a model that merges pictures into the embeddings, e.g. a LLaVA."
        )
    if seen[0].shape[-1] != embedding_width(base) or torch.equal(plain, moved):
        raise ModelError(f"{name} does not answer from the embeddings its text stack is given; give e.g. a LLaVA.")
