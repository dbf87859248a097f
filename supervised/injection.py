"""Lets a base hear for the length of one call: forward pre-hooks on its text stack, gone when the call ends.

The hooks replace the merged input embeddings of the prompt's positions, or the hidden states that enter chosen layers.
Their state belongs to one call in one thread: nothing is stored on the base, so that a later call, or another thread,
never meets the audio of this one. Sequence length, positions and masks of the base do not change here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from supervised.adapter import Adapter
from supervised.encoders.features import AudioFeatures
from supervised.errors import ModelError

HOOK_LOCK = threading.Lock()
"""Held while a hook is added or removed: torch numbers hooks with a plain counter, two threads could get one number."""
_HEARING = threading.local()
_LAYER_LISTS = ("layers", "h", "block", "blocks")
Hook = Callable[[Any, tuple[Any, ...], dict[str, Any]], "tuple[Any, dict[str, Any]] | None"]


@dataclass(frozen=True)
class Heard:
    """What one call of a base is to hear, and where in its prompts."""

    audio: AudioFeatures
    """A row per row of the prompts; `generate` may repeat rows in place (beams)."""
    gate: float
    """In (0, 1]."""
    where: Tensor
    """bool (B, L): the positions that hear."""
    budget: int | None = None
    """Audio tokens to attend to; None: all of them."""
    start: int = 0
    """Columns that the key-value cache holds when the call begins."""
    first: int = 0
    """A column before which no row hears, so that nothing is computed there."""
    inserted: Tensor | None = None
    """float32 (B, T, D): audio tokens for the T columns `where` of each row, instead of fusion."""


@dataclass
class _Call:
    """What the hooks know of the call they serve."""

    heard: Heard
    thread: int = field(default_factory=threading.get_ident)
    position: int = 0
    """Columns that the key-value cache holds; counted here, because a static cache does not tell without a sync."""
    start: int = 0
    """Column at which the present pass through the stack begins."""


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Within the block there are the hooks that are registered as `handles` is walked, each element one's handle."""
    there: list[Any] = []
    try:
        with HOOK_LOCK:
            there.extend(handles)
        yield
    finally:
        with HOOK_LOCK:
            for handle in there:
                handle.remove()


@contextmanager
def hearing(stack: Any, adapter: Adapter, heard: Heard, layers: Sequence[int] = ()) -> Iterator[None]:
    """Within the block, calls of `stack` by this thread get prompts that contain the audio.

    Args:
        stack: the module that takes the merged `inputs_embeds`.
        adapter: fuses embeddings and audio, at one place per layer.
        heard: what is heard, and where.
        layers: layers of the stack whose input hears; none: the merged embeddings do.

    Raises:
        ModelError: this thread is within such a block already, so that the audio would be fused twice.
    """
    if getattr(_HEARING, "now", False):
        raise ModelError("a call with audio started within another call with audio in one thread; end the first.")
    if len(layers) > 1 and not torch.is_grad_enabled():  # one set of tokens for all; gates must learn at each place
        heard = replace(heard, audio=replace(heard.audio, spoken=adapter.spoken(heard.audio, heard.budget)))
    call = _Call(heard, position=heard.start)
    blocks = text_layers(stack) if layers else ()
    hooks = [(stack, _stack_hook(adapter, call, fuses=not layers))]
    hooks += [(blocks[layer], _layer_hook(adapter, call, place)) for place, layer in enumerate(layers)]
    _HEARING.now = True
    try:
        with hooked(module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in hooks):
            yield
    finally:
        _HEARING.now = False


def text_layers(stack: Any) -> Sequence[nn.Module]:
    """Return the layers of a text stack, the first one first; families name the list that holds them differently.

    Raises:
        ModelError: none of the stack's lists can be told to be that of its layers.
    """
    lists = {name: module for name, module in stack.named_children() if isinstance(module, nn.ModuleList)}
    for name in _LAYER_LISTS:
        if name in lists:
            return list(lists[name])
    raise ModelError(
        f"text stack {type(stack).__name__} has no list of layers named {', '.join(_LAYER_LISTS)}; "
        "leave fusion.layers empty, so that the embeddings hear."
    )


def check_layers(stack: Any, layers: Sequence[int], width: int) -> None:
    """Refuse layers that the text stack does not have, or that are not as wide as its embeddings (`width`).

    Raises:
        ModelError: names the first layer that is not there, or the width.
    """
    if not layers:
        return
    if (inside := getattr(stack.config, "hidden_size", width)) != width:  # OPT-350m
        raise ModelError(
            f"the layers of the base's text stack are {inside} wide, its embeddings {width}; leave fusion.layers empty."
        )
    count = len(text_layers(stack))
    for layer in layers:
        if not 0 <= layer < count:
            raise ModelError(
                f"fusion.layers names layer {layer}, but the base's text stack has {count} layers; "
                f"give numbers from 0 to {count - 1}."
            )


def _stack_hook(adapter: Adapter, call: _Call, fuses: bool) -> Hook:
    """Return the hook that counts columns and, if it `fuses`, lets the embeddings hear."""

    # Without kwargs torch calls a hook that another thread is just adding or removing: not ours then.
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]] | None:
        if kwargs is None or threading.get_ident() != call.thread:
            return None  # torch then passes on the original objects
        hidden = kwargs.get("inputs_embeds")
        given = kwargs.get("input_ids") if hidden is None else hidden
        call.start = call.heard.start
        # A step or a chunk; without a cache every call brings the whole sequence.
        if given is not None and kwargs.get("past_key_values") is not None:
            call.start, call.position = call.position, call.position + given.shape[1]
        if hidden is None or not fuses:
            return None
        fused = _fuse(adapter, call, hidden, place=0)
        return None if fused is None else (args, {**kwargs, "inputs_embeds": fused})

    return hook


def _layer_hook(adapter: Adapter, call: _Call, place: int) -> Hook:
    """Return the hook that lets the input of one layer hear."""

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]] | None:
        if kwargs is None or threading.get_ident() != call.thread:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        fused = _fuse(adapter, call, hidden, place)
        if fused is None:
            return None
        return ((fused, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": fused})

    return hook


def _fuse(adapter: Adapter, call: _Call, hidden: Tensor, place: int) -> Tensor | None:
    """Return `hidden` (B, L, D) with its prompt positions fused, or None where it has none that hear."""
    heard = call.heard
    begin = max(heard.first - call.start, 0)
    end = min(hidden.shape[1], heard.where.shape[1] - call.start)
    if end <= begin:
        return None
    times, rest = divmod(len(hidden), len(heard.audio))
    if rest:
        raise ModelError(f"{len(hidden)} rows reached the text stack for {len(heard.audio)} clips; give one per row.")
    columns, part = slice(call.start + begin, call.start + end), hidden[:, begin:end]
    if heard.inserted is None:
        if adapter.needs_whole_prompt and 0 < heard.where[:, columns].sum() < heard.where.sum():
            raise ModelError("fusion.kind gated looks at the whole prompt; give the prompt in one piece.")
        where = heard.where[:, columns].repeat_interleave(times, 0)  # (B, end - begin)
        fused = adapter(part, heard.audio.repeat(times), heard.gate, where, heard.budget, place)
    else:
        fused = _insert(part, heard, heard.inserted, columns, times)
    if end - begin == hidden.shape[1]:
        return fused
    return torch.cat([hidden[:, :begin], fused, hidden[:, end:]], 1)


def _insert(hidden: Tensor, heard: Heard, tokens: Tensor, columns: slice, times: int) -> Tensor:
    """Return `hidden` (B, L, D) of some columns with the `tokens` where they belong; below gate 1 they fade in."""
    where = heard.where[:, columns].repeat_interleave(times, 0)[..., None]  # (B, L, 1)
    number = (heard.where.cumsum(1) - 1).clamp(min=0)[:, columns, None]  # (B, L, 1): which token stands there
    spoken = tokens.gather(1, number.expand(-1, -1, tokens.shape[-1])).repeat_interleave(times, 0)  # (B, L, D)
    if heard.gate < 1:
        spoken = heard.gate * spoken + (1 - heard.gate) * hidden.float()
    return torch.where(where, spoken.to(hidden.dtype), hidden)
