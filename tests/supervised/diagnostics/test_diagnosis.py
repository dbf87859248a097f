"""The whole diagnosis on tiny random models; every deliberate regression fires its monitors, the healthy none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from supervised.base import weights_sha256
from supervised.data.sample import Sample
from supervised.diagnostics.config import EvaluateConfig, MonitorConfig
from supervised.diagnostics.diagnosis import HEALTHY, Diagnosis, diagnose
from supervised.diagnostics.questions import Questions, draw
from supervised.safe_model import SafeModel

CONFIG = EvaluateConfig(questions=16, monitors=MonitorConfig(residual_ratio=0.05))
"""A new adapter adds at most 0.05 behind a gate that is half open; five times as much is to be noticed."""


def silent(_: str) -> None:
    """Hear what is measured next."""


@pytest.fixture(scope="module")
def diagnosis(quiet: SafeModel, batches: list[Questions]) -> Diagnosis:
    return diagnose(quiet, batches, CONFIG, silent)


def test_a_healthy_adapter_fires_no_monitor(diagnosis: Diagnosis) -> None:
    assert diagnosis.healthy.condition == HEALTHY
    assert diagnosis.healthy.fired == []


@pytest.mark.parametrize(
    ("condition", "monitors"),
    [
        ("audio pressure", {"audio_level"}),
        ("audio pressure, no markers", {"audio_level", "audio_mass"}),
        ("coupling x 5", {"residual_ratio"}),
        ("coupling x 20", {"residual_ratio"}),
        ("isolation removed", {"isolation"}),
    ],
)
def test_every_deliberate_regression_fires_its_monitors(
    diagnosis: Diagnosis, condition: str, monitors: set[str]
) -> None:
    (stress,) = [stress for stress in diagnosis.stress if stress.condition == condition]
    assert set(stress.must_fire) == monitors
    assert monitors <= set(stress.fired)
    assert stress.as_expected


def test_a_strong_coupling_is_seen_in_states_and_logits(diagnosis: Diagnosis) -> None:
    readings = {stress.condition: stress.readings for stress in diagnosis.stress}
    calm, loud = readings[HEALTHY], readings["coupling x 20"]
    assert (loud["kl"].value or 0) > 10 * (calm["kl"].value or 0)
    assert (loud["cka"].value or 0) < (calm["cka"].value or 0)


def test_the_figures_are_complete_and_json(diagnosis: Diagnosis) -> None:
    told = json.loads(json.dumps(diagnosis.as_json(), allow_nan=False))
    assert told["kinds"] == {"audio": 8, "retention": 8}
    assert set(told["delta_logits"]) == {"audio: which", "retention: colour"}
    assert [len(told["cka"][kind]["prompt"]) for kind in ("audio", "retention")] == [3, 3]  # embeddings, two layers
    assert len(told["attention"]) == len(told["residual"]) == 1
    assert told["residual_scales"] == pytest.approx([0.05])
    assert [row["gate"] for row in diagnosis.sweep.figures()] == list(CONFIG.gates)


def test_states_part_from_the_base_layer_by_layer(diagnosis: Diagnosis) -> None:
    for positions in diagnosis.cka.values():
        for values in positions.values():
            assert all(value is None or 0.5 < value <= 1.000001 for value in values)


def test_the_model_is_left_as_it_was(quiet: SafeModel, batches: list[Questions]) -> None:
    before = weights_sha256(quiet.adapter)
    diagnose(quiet, batches[:2], CONFIG, silent)
    assert weights_sha256(quiet.adapter) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in quiet.adapter.modules())


@pytest.mark.parametrize(
    "fusion",
    [
        {"kind": "gated", "layers": (0, 1)},
        {"kind": "block", "scope": "suffix"},
        {"kind": "cross_attention", "layers": (1,)},
        {"injection": "tokens"},
    ],
    ids=str,
)
def test_every_way_to_hear_can_be_diagnosed(
    attach: Callable[..., SafeModel], samples: list[Sample], fusion: dict[str, Any]
) -> None:
    model = attach(**fusion)
    found = diagnose(model, draw(model, samples, 16, 8, 0), CONFIG, silent)
    json.dumps(found.as_json(), allow_nan=False)
    places = 0 if "injection" in fusion else model.adapter.places
    assert len(found.attention) == len(found.residual) == len(found.residual_scales) == places
    assert [stress.condition for stress in found.stress][:2] == [HEALTHY, "audio pressure"]
    assert len(found.stress) == (6 if places else 2)
    assert found.healthy.readings["isolation"].value == 0
    if places:
        assert found.stress[-1].fired[0] == "isolation"
