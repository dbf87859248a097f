"""Monitors: one figure each against one limit. A healthy adapter fires none; every known kind of breakage fires one.

isolation: something that must not hear changed a bit. A broken choice of rows or positions.
residual_ratio: mean ||delta|| / ||x|| on retention questions. A residual that writes over the states.
kl: mean KL(base || fused) at the answer of retention questions. Audio that sways answers it must not sway.
cka: smallest linear CKA of any layer at the answer of retention questions. States that went elsewhere.
drop: base score - achieved score on retention questions. Harm that is already done.
audio_mass: mean share of attention on audio tokens in retention questions. An adapter that cannot look away.
audio_level: mean level of the retention questions' clips. Louder than anything that the adapter learned from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from supervised.diagnostics.cka import per_layer
from supervised.diagnostics.config import MonitorConfig
from supervised.diagnostics.delta_logits import divergence
from supervised.diagnostics.isolation import Isolation
from supervised.diagnostics.observing import Observation
from supervised.diagnostics.questions import Questions


@dataclass(frozen=True)
class Reading:
    """What one monitor says."""

    monitor: str
    value: float | None
    """None: this model has no such figure."""
    limit: float
    fires: bool


def read(
    batches: Sequence[Questions], base: Observation, fused: Observation, kept: Isolation, limits: MonitorConfig
) -> dict[str, Reading]:
    """Return what every monitor says.

    Args:
        batches: the questions that were asked.
        base: with the gate at 0.
        fused: with the gate at 1.
        kept: what isolation found.
        limits: of the monitors.
    """
    retention = torch.cat([batch.retention for batch in batches])
    clips = [sample.audio for batch in batches for sample in batch.samples if sample.retention_set is not None]
    ratios = [part.ratio[retention[part.question]] for part in fused.residuals]
    likeness = [v for v in per_layer(base.answer_states, fused.answer_states, retention) if v is not None]
    lost = torch.from_numpy(base.scores - fused.scores)[retention]
    return {
        "isolation": above("isolation", kept.leaks + (kept.positions and not fused.untouched), 0.0),
        "residual_ratio": above(
            "residual_ratio", max(float(r.mean()) for r in ratios) if ratios else None, limits.residual_ratio
        ),
        "kl": above("kl", float(divergence(base.logits, fused.logits)[retention].mean()), limits.kl),
        "cka": _below("cka", min(likeness) if likeness else None, limits.cka),
        "audio_mass": above(
            "audio_mass",
            max(float(each.mass[retention].mean()) for each in fused.probes) if fused.probes else None,
            limits.audio_mass,
        ),
        "audio_level": above("audio_level", sum(level(clip) for clip in clips) / len(clips), limits.audio_level),
        "drop": above("drop", float(lost.mean()), limits.drop),
    }


def level(clip: Any) -> float:
    """Return the root mean square of a clip's samples in dB below full scale, at least -120."""
    power = float(np.mean(np.square(clip.samples, dtype=np.float64)))
    return 10 * math.log10(max(power, 1e-12))


def above(monitor: str, value: float | None, limit: float) -> Reading:
    """Return the reading of a monitor that fires above its limit; NaN fires as well."""
    return Reading(monitor, value, limit, value is not None and not value <= limit)


def _below(monitor: str, value: float | None, limit: float) -> Reading:
    return Reading(monitor, value, limit, value is not None and not value >= limit)


def fired(readings: dict[str, Reading]) -> list[str]:
    """Return the names of the monitors that fire."""
    return [name for name, reading in readings.items() if reading.fires]
