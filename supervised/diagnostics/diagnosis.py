"""A whole diagnosis: a trained model and questions go in, every figure and every monitor's reading comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from supervised.diagnostics import attention_probe, residual
from supervised.diagnostics.alignment import alignment
from supervised.diagnostics.cka import per_layer
from supervised.diagnostics.config import EvaluateConfig, MonitorConfig
from supervised.diagnostics.delta_logits import by_kind
from supervised.diagnostics.gate_sweep import GateSweep, sweep
from supervised.diagnostics.isolation import isolation
from supervised.diagnostics.monitors import Reading, fired, read
from supervised.diagnostics.observing import Observation, Settings, answer_scores, observe
from supervised.diagnostics.questions import Questions, answer_length
from supervised.diagnostics.residual import residual_scales
from supervised.diagnostics.stress import coupled, pressed, unisolated, unmarked
from supervised.safe_model import SafeModel

COUPLINGS = (5.0, 20.0)
"""Factors on the residual scale."""
HEALTHY = "healthy"
"""Name of the condition in which nothing was broken."""


@dataclass(frozen=True)
class Stress:
    """One condition and what the monitors said."""

    condition: str
    must_fire: tuple[str, ...]
    """Monitors that this breakage must fire, all of them; none for the healthy adapter."""
    readings: dict[str, Reading]

    @property
    def fired(self) -> list[str]:
        """Return the monitors that fire."""
        return fired(self.readings)

    @property
    def as_expected(self) -> bool:
        """Return whether the monitors that must fire do, and none does where none must."""
        return set(self.must_fire) <= set(self.fired) and (bool(self.must_fire) or not self.fired)


@dataclass(frozen=True)
class Diagnosis:
    """All figures, as plain values, and the sweep's scores for intervals."""

    questions: int
    kinds: dict[str, int]
    """Questions that need audio, and questions that do not."""
    sweep: GateSweep
    groups: list[str]
    """Cluster of every question, for resampling."""
    delta_logits: dict[str, dict[str, float]]
    """Per kind of question."""
    cka: dict[str, dict[str, list[float | None]]]
    """audio and retention -> prompt and answer positions -> a value per layer, the embeddings first."""
    attention: list[dict[str, Any]]
    """One per place; none where audio enters as tokens."""
    residual: list[dict[str, Any]]
    """As `attention`."""
    residual_scales: list[float]
    alignment: dict[str, Any]
    stress: list[Stress]

    @property
    def healthy(self) -> Stress:
        """Return what the monitors said of the adapter as it is."""
        return self.stress[0]

    def as_json(self) -> dict[str, Any]:
        """Return everything but the sweep, which has intervals added."""
        plain = {name: getattr(self, name) for name in ("questions", "kinds", "delta_logits", "cka", "attention")}
        plain |= {name: getattr(self, name) for name in ("residual", "residual_scales", "alignment")}
        plain["monitors"] = [
            {
                "condition": one.condition,
                "must_fire": list(one.must_fire),
                "fired": one.fired,
                "as_expected": one.as_expected,
                "readings": {name: asdict(reading) for name, reading in one.readings.items()},
            }
            for one in self.stress
        ]
        return plain


def diagnose(
    model: SafeModel, batches: Sequence[Questions], config: EvaluateConfig, tick: Callable[[str], object] = print
) -> Diagnosis:
    """Measure everything; the model is left as it was.

    Args:
        model: trained, or not.
        batches: from `draw`.
        config: gates, limits and sizes.
        tick: hears what is measured next.
    """
    samples = [sample for batch in batches for sample in batch.samples]
    retention = torch.cat([batch.retention for batch in batches])
    settings = Settings(answer_length(model, batches), config.positions, config.seed)
    tick("the base")
    base = observe(model, batches, 0.0, settings)
    tick("gate 1")
    fused = observe(model, batches, 1.0, settings)
    scores = []
    for gate in config.gates:
        known = {0.0: base.scores, 1.0: fused.scores}.get(gate)
        if known is None:
            tick(f"gate {gate:g}")
        scores.append(answer_scores(model, batches, gate, settings.max_new_tokens) if known is None else known)
    kinds = [
        f"{'retention' if keep else 'audio'}: {s.type or 'all'}" for s, keep in zip(samples, retention, strict=True)
    ]
    tick("alignment")
    aligned = alignment(model, batches)
    return Diagnosis(
        questions=len(samples),
        kinds={"audio": int((~retention).sum()), "retention": int(retention.sum())},
        sweep=sweep(config.gates, scores, retention.numpy()),
        groups=[sample.group or sample.id for sample in samples],
        delta_logits=by_kind(base.logits, fused.logits, kinds),
        cka=_likeness(base, fused, retention),
        attention=[attention_probe.figures(each, retention) for each in fused.probes],
        residual=[residual.figures(each, retention) for each in fused.residuals],
        residual_scales=residual_scales(model.adapter) if fused.residuals else [],
        alignment=aligned,
        stress=stresses(model, batches, config.monitors, settings, base, fused, tick),
    )


def _likeness(base: Observation, fused: Observation, retention: Tensor) -> dict[str, dict[str, list[float | None]]]:
    """Return the CKA of every layer, for both kinds of question, at drawn prompt positions and at the answer's."""
    return {
        name: {
            "prompt": per_layer(base.prompt_states, fused.prompt_states, kind[base.question]),
            "answer": per_layer(base.answer_states, fused.answer_states, kind),
        }
        for name, kind in (("audio", ~retention), ("retention", retention))
    }


def stresses(
    model: SafeModel,
    batches: Sequence[Questions],
    limits: MonitorConfig,
    settings: Settings,
    base: Observation,
    fused: Observation,
    tick: Callable[[str], object] = print,
) -> list[Stress]:
    """Return what the monitors say of the adapter as it is, and of each deliberate regression.

    Args:
        model: as it is, and left so.
        batches: the questions.
        limits: of the monitors.
        settings: that `base` and `fused` were observed with.
        base: with the gate at 0.
        fused: with the gate at 1.
        tick: hears what is measured next.
    """

    def under(block: AbstractContextManager[None], asked: Sequence[Questions] = batches) -> dict[str, Reading]:
        with block:
            return read(asked, base, observe(model, asked, 1.0, settings), isolation(model, asked), limits)

    tick("isolation")
    result = [Stress(HEALTHY, (), read(batches, base, fused, isolation(model, batches), limits))]
    tick("audio pressure")
    loud = pressed(model, batches)
    result.append(Stress("audio pressure", ("audio_level",), under(nullcontext(), loud)))
    if not fused.residuals:  # inserted tokens pass no fusion that could be broken
        return result
    result.append(Stress("audio pressure, no markers", ("audio_level", "audio_mass"), under(unmarked(model), loud)))
    for factor in COUPLINGS:
        tick(f"coupling x {factor:g}")
        result.append(Stress(f"coupling x {factor:g}", ("residual_ratio",), under(coupled(model, factor))))
    tick("isolation removed")
    result.append(Stress("isolation removed", ("isolation",), under(unisolated(model))))
    return result
