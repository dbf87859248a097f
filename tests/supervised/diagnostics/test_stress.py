from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from supervised.base import weights_sha256
from supervised.diagnostics.isolation import isolation
from supervised.diagnostics.monitors import level
from supervised.diagnostics.questions import Questions
from supervised.diagnostics.recording import Fused, recording
from supervised.diagnostics.residual import residual_scales
from supervised.diagnostics.stress import coupled, pressed, unisolated, unmarked
from supervised.errors import ModelError
from supervised.safe_model import SafeModel


def heard(model: SafeModel, batch: Questions) -> Fused:
    with recording(model.adapter) as seen:
        model.generate(batch.inputs, batch.audio, max_new_tokens=1)
    return seen[0]


def test_a_healthy_adapter_leaks_nothing(quiet: SafeModel, batches: list[Questions]) -> None:
    found = isolation(quiet, batches)
    assert (found.gate_zero, found.rows, found.positions, found.leaks) == (0.0, 0.0, True, 0.0)


def test_without_isolation_rows_and_positions_leak(quiet: SafeModel, batches: list[Questions]) -> None:
    with unisolated(quiet):
        found = isolation(quiet, batches)
    assert found.rows > 0
    assert not found.positions
    assert found.gate_zero == 0  # no hook, no leak: the bypass does not depend on the adapter
    assert found.leaks == 2
    assert isolation(quiet, batches).leaks == 0


def test_a_base_that_searches_with_beams_by_itself_is_compared_without(
    quiet: SafeModel, batches: list[Questions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet.base.generation_config, "num_beams", 3)  # Florence-2's
    assert isolation(quiet, batches).leaks == 0


@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_a_coupling_of_five_moves_five_times_as_far_and_is_taken_back(
    attach: Callable[..., SafeModel], batches: list[Questions], layers: tuple[int, ...]
) -> None:
    model = attach(layers=layers)
    before, calm = weights_sha256(model.adapter), heard(model, batches[0])
    with coupled(model, 5):
        assert residual_scales(model.adapter) == pytest.approx([0.25] * model.adapter.places)
        loud = heard(model, batches[0])
    delta, larger = (fused.result - fused.hidden for fused in (calm, loud))
    held = 0.5 if calm.openness is not None else 1.0  # the learned gate, which stands open within the block
    torch.testing.assert_close(held * larger, 5 * delta, rtol=1e-3, atol=1e-5)
    assert weights_sha256(model.adapter) == before


def test_a_coupling_is_taken_back_after_an_error(quiet: SafeModel) -> None:
    def fail() -> None:
        raise RuntimeError("in between")

    before = weights_sha256(quiet.adapter)
    with pytest.raises(RuntimeError, match="in between"), coupled(quiet, 20):
        fail()
    assert weights_sha256(quiet.adapter) == before


def test_inserted_tokens_cannot_be_coupled(attach: Callable[..., SafeModel]) -> None:
    model = attach(injection="tokens")
    with (
        pytest.raises(ModelError, match=r"no residual to make larger; use fusion\.injection residual"),
        coupled(model, 5),
    ):
        pass


def test_without_markers_all_attention_is_on_the_audio(quiet: SafeModel, batches: list[Questions]) -> None:
    with unmarked(quiet):
        weights = heard(quiet, batches[0]).attended.weights
    assert float(weights[..., [0, -1]].sum()) == 0
    assert float(heard(quiet, batches[0]).attended.weights[..., [0, -1]].sum()) > 0


def test_pressure_is_loud_and_meets_retention_questions_only(quiet: SafeModel, batches: list[Questions]) -> None:
    loud = pressed(quiet, batches)
    for before, after in zip(batches, loud, strict=True):
        for calm, sample, i in zip(before.samples, after.samples, range(99), strict=False):
            same = torch.equal(before.audio.tokens[i], after.audio.tokens[i])
            assert same == (sample.retention_set is None)
            assert (level(sample.audio) > -3) == (sample.retention_set is not None)
            assert level(calm.audio) < -20
