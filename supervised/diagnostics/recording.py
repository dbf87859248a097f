"""Looks into an adapter while it works: what went in, what came out, who attended to what.

    with recording(model.adapter) as seen:
        model.generate(inputs, audio)
    seen[0].ratio, seen[0].weights

Forward hooks, gone when the block ends, keep references to tensors that exist anyway; a figure is computed when it is
asked for. Without the block nothing is hooked. Only calls of the thread that opened the block are recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from supervised.adapter import Adapter
from supervised.attention import attention_scores, attention_weights
from supervised.encoders.features import AudioFeatures
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.gated import GatedFusion, opened
from supervised.fusion.parts import Listeners, Sound
from supervised.injection import hooked


@dataclass(frozen=True)
class Attended:
    """Queries and keys of one cross-attention, before they are split into heads."""

    query: Tensor
    """float32 (B, L, D)."""
    key: Tensor
    """float32 (B, K, D)."""
    heads: int
    sound: Sound

    @property
    def weights(self) -> Tensor:
        """Return the share of every token in what a head sees, float32 (B, H, L, K); markers are first and last."""
        scores = attention_scores(self.query.detach(), self.key.detach(), self.heads)
        return attention_weights(scores, self.sound.mask)


@dataclass(frozen=True)
class Fused:
    """One call of an adapter. Its columns end where those of the prompt end; with scope suffix there are fewer."""

    hidden: Tensor
    """(B, L, D) before."""
    result: Tensor
    """(B, L, D) after."""
    hears: Tensor
    """bool (B, L): the positions that hear, of rows with audio."""
    gate: float
    place: int
    attended: Attended
    openness: Tensor | None
    """float32 (B,): the learned gate of every row, of kind gated; None: there is none."""

    @cached_property
    def ratio(self) -> Tensor:
        """Return ||delta|| / ||x|| of every position, float32 (B, L), without a gradient; 0 where both are 0."""
        hidden = self.hidden.detach().float()
        size = torch.linalg.vector_norm(hidden, dim=-1)
        delta = torch.linalg.vector_norm(self.result.detach().float() - hidden, dim=-1)
        return delta / size.clamp(min=1e-12)

    @property
    def untouched(self) -> bool:
        """Return whether the positions that do not hear kept their bits."""
        deaf = ~self.hears
        return torch.equal(bits(self.result[deaf]), bits(self.hidden[deaf]))


@dataclass(frozen=True)
class _Call:
    """The arguments of `Adapter.forward`."""

    hidden: Tensor
    audio: AudioFeatures
    gate: float
    hears: Tensor
    budget: int | None = None
    place: int = 0


class _Recorder:
    """The hooks of one block; each of them passes on what it saw to the one around it."""

    def __init__(self) -> None:
        self.seen: list[Fused] = []
        self._thread = threading.get_ident()
        self._inner: dict[str, Any] = {}  # of the call that is under way

    def register(self, adapter: Adapter) -> Iterator[Any]:
        """Put the hooks in their places and yield a handle of each."""
        for fusion in fusions(adapter):
            attention = _attention(fusion)
            yield attention.query.register_forward_hook(self._kept("query"))
            yield attention.key.register_forward_hook(self._kept("key"))
            yield fusion.register_forward_hook(self._fused)
            if isinstance(fusion, GatedFusion):
                yield fusion.contract.register_forward_hook(self._opened)
        yield adapter.register_forward_hook(self._adapted, with_kwargs=True)

    @property
    def _ours(self) -> bool:
        return threading.get_ident() == self._thread

    def _kept(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._ours:
                self._inner[name] = output

        return hook

    def _fused(self, fusion: nn.Module, args: tuple[Listeners, Sound], _: Tensor) -> None:
        if self._ours:
            inner = self._inner
            inner["attended"] = Attended(inner["query"], inner["key"], _attention(fusion).heads, args[1])

    def _opened(self, _: nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
        if self._ours:
            self._inner["openness"] = opened(logits.detach())

    # Without kwargs torch calls a hook that another thread is just adding or removing: not ours then.
    def _adapted(self, _: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        if self._ours and len(rest) == 2:
            call, inner = _Call(*args, **rest[0]), self._inner
            hears = call.audio.present[:, None] & call.hears
            fused = Fused(call.hidden, rest[1], hears, call.gate, call.place, inner["attended"], inner.get("openness"))
            self.seen.append(fused)
            inner.clear()


@contextmanager
def recording(adapter: Adapter) -> Iterator[list[Fused]]:
    """Within the block, every call of `adapter` by this thread appends a `Fused` to the list that is yielded.

    A prompt that is read in one pass gives one entry per place; inserted audio tokens pass no fusion and give none.
    """
    recorder = _Recorder()
    with hooked(recorder.register(adapter)):
        yield recorder.seen


def fusions(adapter: Adapter) -> list[Any]:
    """Return the fusion module of every place."""
    return list(adapter.fusion) if isinstance(adapter.fusion, nn.ModuleList) else [adapter.fusion]


def _attention(fusion: Any) -> CrossAttentionFusion:
    """Return the cross-attention of a fusion, itself or within it."""
    attention: CrossAttentionFusion = fusion if isinstance(fusion, CrossAttentionFusion) else fusion.attention
    return attention


def bits(values: Tensor) -> Tensor:
    """Return floats as integers, so that -0.0 is not 0.0 and NaN is itself."""
    return values.detach().contiguous().view({4: torch.int32, 2: torch.int16, 8: torch.int64}[values.element_size()])
