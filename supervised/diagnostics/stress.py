"""Deliberate regressions: what a broken adapter would do, so that the monitors can be seen to fire.

    with coupled(model, 5): ...         the residual is five times as large, learned gates stand open
    with unisolated(model): ...         rows without audio and positions that must not hear are fused as well
    with unmarked(model): ...           no position can turn to the markers, so that all of them must listen
    pressed(model, batches)             every retention question hears something loud and crowded

Every block leaves the model as it was, bit for bit, also after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supervised.data.sample import Waveform
from supervised.diagnostics.questions import Questions
from supervised.diagnostics.recording import fusions
from supervised.errors import ModelError
from supervised.fusion.gated import GatedFusion
from supervised.fusion.parts import Listeners, Sound
from supervised.injection import hooked
from supervised.safe_model import SafeModel

VOICES = 4
"""Clips of other questions that a crowd is made of."""


@contextmanager
def coupled(model: SafeModel, factor: float) -> Iterator[None]:
    """Within the block the residual of every place is `factor` times as large, and no learned gate holds it back.

    A gate that is shut on retention questions would hide the residual behind it from every monitor.

    Raises:
        ModelError: audio enters as inserted tokens, which have no residual.
    """
    if model.config.fusion.injection == "tokens":
        raise ModelError("inserted audio tokens have no residual to make larger; use fusion.injection residual.")
    scales = [fusion.residual_scale for fusion in fusions(model.adapter) if fusion.residual_scale is not None]
    before = [scale.detach().clone() for scale in scales]
    gated = [fusion for fusion in fusions(model.adapter) if isinstance(fusion, GatedFusion)]
    try:
        with torch.no_grad():
            for scale in scales:
                scale.mul_(factor)
        with hooked(fusion.register_forward_hook(_ungated) for fusion in gated):
            yield
    finally:
        with torch.no_grad():
            for scale, value in zip(scales, before, strict=True):
                scale.copy_(value)


def _ungated(fusion: GatedFusion, args: tuple[Listeners, Sound], _: Tensor) -> Tensor:
    """Return what the fusion would without its gate."""
    residual: Tensor = fusion.attention(*args)
    return residual


@contextmanager
def unisolated(model: SafeModel) -> Iterator[None]:
    """Within the block the adapter fuses every row and every position, as if nothing chose those that hear."""

    def leak(adapter: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Tensor) -> Any:
        hidden, audio, gate, hears, *rest = args
        everyone = replace(audio, present=torch.ones_like(audio.present))
        return type(adapter).forward(adapter, hidden, everyone, gate, torch.ones_like(hears), *rest, **kwargs)

    with hooked(each.register_forward_hook(leak, with_kwargs=True) for each in (model.adapter,)):
        yield


@contextmanager
def unmarked(model: SafeModel) -> Iterator[None]:
    """Within the block the markers cannot be attended to, only what the clip says."""

    def mask(_: nn.Module, args: tuple[Listeners, Sound]) -> tuple[Listeners, Sound]:
        listeners, sound = args
        only = sound.mask.clone()
        only[:, 0] = only[:, -1] = False
        return listeners, replace(sound, mask=only)

    with hooked(fusion.register_forward_pre_hook(mask) for fusion in fusions(model.adapter)):
        yield


def pressed(model: SafeModel, batches: Sequence[Questions]) -> list[Questions]:
    """Return the questions, those that need no audio with a crowd of other questions' clips at full scale."""
    clips = [sample.audio for batch in batches for sample in batch.samples]
    result, start = [], 0
    for batch in batches:
        count = len(batch.samples)
        samples = [
            replace(sample, audio=_crowd(clips, start + i)) if sample.retention_set is not None else sample
            for i, sample in enumerate(batch.samples)
        ]
        audio = model.encode_audio([sample.audio for sample in samples]).to(model.device)
        result.append(replace(batch, samples=samples, audio=audio))
        start += count
    return result


def _crowd(clips: Sequence[Any], place: int) -> Waveform:
    """Return the sum of the clips that follow `place`, each at the same power, driven until it clips at 1."""
    heard = [clips[(place + 1 + i) % len(clips)] for i in range(VOICES)]
    seconds = max(len(clip.samples) for clip in heard)
    total = np.zeros(seconds, dtype=np.float64)
    for clip in heard:
        samples = np.resize(clip.samples, seconds).astype(np.float64)
        total += samples / max(float(np.sqrt(np.mean(samples**2))), 1e-6)
    return Waveform(np.clip(total, -1, 1).astype(np.float32), heard[0].rate)
