from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from supervised.attention import attend
from supervised.diagnostics.questions import Questions
from supervised.diagnostics.recording import Fused, recording
from supervised.safe_model import SafeModel

KINDS = ("lora", "cross_attention", "block", "gated")


def hooks(model: SafeModel) -> int:
    modules: Iterator[nn.Module] = model.adapter.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def hear(model: SafeModel, batch: Questions) -> tuple[Any, list[Fused]]:
    with recording(model.adapter) as seen:
        output = model.generate(batch.inputs, batch.audio, max_new_tokens=3)
    return output, seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_every_place_of_every_kind_is_seen_once(
    attach: Callable[..., SafeModel], batches: list[Questions], kind: str, layers: tuple[int, ...]
) -> None:
    model, batch = attach(kind=kind, layers=layers), batches[0]
    output, seen = hear(model, batch)
    assert [fused.place for fused in seen] == list(range(model.adapter.places))
    for fused in seen:
        weights = fused.attended.weights
        rows, length = batch.inputs["input_ids"].shape
        assert weights.shape == (rows, 4, length, 10)  # four heads, eight tokens and two markers
        torch.testing.assert_close(weights.sum(-1), torch.ones(rows, 4, length))
        assert torch.equal(fused.hears, batch.inputs["attention_mask"].bool())
        assert fused.untouched
        assert (fused.openness is not None) == (kind == "gated")
    plain = model.generate(batch.inputs, batch.audio, max_new_tokens=3)
    assert all(torch.equal(a, b) for a, b in zip(output.logits, plain.logits, strict=True))


def test_the_weights_are_those_that_the_fusion_used(quiet: SafeModel, batches: list[Questions]) -> None:
    _, (fused,) = hear(quiet, batches[0])
    fusion: Any = quiet.adapter.fusion.attention
    sound = fused.attended.sound
    value = fusion.value(sound.tokens / quiet.adapter.embedding_rms)
    seen = attend(fused.attended.query, fused.attended.key, value, sound.mask, fused.attended.heads)
    split = value.unflatten(-1, (fused.attended.heads, -1)).transpose(1, 2)
    torch.testing.assert_close((fused.attended.weights @ split).transpose(1, 2).flatten(2), seen)


def test_the_gate_of_a_gated_fusion_starts_at_one_half(
    attach: Callable[..., SafeModel], batches: list[Questions]
) -> None:
    _, (fused,) = hear(attach(kind="gated"), batches[0])
    assert fused.openness is not None
    assert fused.openness.tolist() == [0.5] * len(batches[0].samples)


def test_the_gate_that_is_seen_is_the_one_that_scaled(
    attach: Callable[..., SafeModel], batches: list[Questions]
) -> None:
    model = attach(kind="gated")
    fusion: Any = model.adapter.fusion
    torch.nn.init.normal_(fusion.contract.weight, generator=torch.Generator().manual_seed(0))
    used: list[torch.Tensor] = []
    handle = fusion.register_forward_hook(lambda _, args, residual: used.append(residual / fusion.attention(*args)))
    _, (fused,) = hear(model, batches[0])
    handle.remove()
    assert fused.openness is not None
    assert len(set(fused.openness.tolist())) > 1
    shares = used[0][fused.hears]  # (m, D), each row the gate of its question
    expected = fused.openness.repeat_interleave(fused.hears.sum(1))[:, None].expand_as(shares)
    torch.testing.assert_close(shares, expected, rtol=1e-3, atol=1e-3)


def test_ratios_of_positions_that_hear_are_those_of_the_norms(quiet: SafeModel, batches: list[Questions]) -> None:
    _, (fused,) = hear(quiet, batches[0])
    row, column = 0, -1
    delta = (fused.result - fused.hidden)[row, column].norm()
    assert float(fused.ratio[row, column]) == pytest.approx(float(delta / fused.hidden[row, column].norm()))
    assert 0 < float(fused.ratio[fused.hears].mean()) < 0.2
    assert float(fused.ratio[~fused.hears].sum()) == 0


def test_without_audio_there_is_nothing_to_see(quiet: SafeModel, batches: list[Questions]) -> None:
    with recording(quiet.adapter) as seen:
        quiet.generate(batches[0].inputs, batches[0].audio, gate=0.0, max_new_tokens=1)
    assert seen == []


def test_nothing_is_left_behind_even_by_an_error(quiet: SafeModel) -> None:
    def fail() -> None:
        assert hooks(quiet) > 0
        raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"), recording(quiet.adapter):
        fail()
    assert hooks(quiet) == 0


def test_calls_of_another_thread_are_not_seen(quiet: SafeModel, batches: list[Questions]) -> None:
    with recording(quiet.adapter) as seen:
        other = threading.Thread(target=lambda: quiet.generate(batches[1].inputs, batches[1].audio, max_new_tokens=1))
        other.start()
        quiet.generate(batches[0].inputs, batches[0].audio, max_new_tokens=1)
        other.join()
    assert [len(fused.hidden) for fused in seen] == [len(batches[0].samples)]


def test_a_gradient_reaches_the_adapter_through_a_recording(quiet: SafeModel, batches: list[Questions]) -> None:
    batch = batches[0]
    with recording(quiet.adapter) as seen:
        quiet.forward(batch.inputs, batch.audio).logits.sum().backward()
    assert quiet.adapter.markers.grad is not None
    assert not seen[0].ratio.requires_grad
    quiet.adapter.zero_grad(set_to_none=True)
