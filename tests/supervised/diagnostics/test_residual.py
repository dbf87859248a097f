from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from supervised.data.sample import Sample
from supervised.diagnostics.questions import Questions
from supervised.diagnostics.recording import Attended, Fused, recording
from supervised.diagnostics.residual import Residual, figures, fusion_figures, fusion_sums, residual, residual_scales
from supervised.fusion.parts import Sound
from supervised.safe_model import SafeModel
from supervised.stage_a.config import GuardConfig, StageAConfig
from supervised.stage_a.training import train_stage_a


def fused(openness: torch.Tensor | None = None) -> Fused:
    """Question 0 is moved by half its length at two positions, question 1 by its whole length at one."""
    hidden = torch.ones(2, 2, 4)
    result = hidden.clone()
    result[0] = 1.5
    result[1, 1] = 2.0
    hears = torch.tensor([[True, True], [False, True]])
    sound = Sound(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    return Fused(hidden, result, hears, 1.0, 0, Attended(hidden, sound.tokens, 1, sound), openness)


def test_figures_match_those_computed_by_hand() -> None:
    told = figures(residual(fused(torch.tensor([0.25, 0.75]))), torch.tensor([True, False]))
    assert told["retention"]["ratio_mean"] == told["retention"]["ratio_max"] == pytest.approx(0.5)
    assert told["audio"]["ratio_mean"] == pytest.approx(1.0)
    assert (told["retention"]["gate_mean"], told["audio"]["gate_mean"]) == (0.25, 0.75)
    assert fusion_sums([fused()]).tolist()[:2] == [pytest.approx(0.5 + 0.5 + 1.0), 3]


def test_batches_are_joined_question_by_question() -> None:
    both = Residual.concatenate([residual(fused()), residual(fused())])
    assert both.question.tolist() == [0, 0, 1, 2, 2, 3]
    assert both.ratio.tolist() == pytest.approx([0.5, 0.5, 1.0, 0.5, 0.5, 1.0])


def test_a_shared_scale_is_told_for_every_place(attach: Callable[..., SafeModel]) -> None:
    assert residual_scales(attach(layers=(0, 1)).adapter) == pytest.approx([0.05, 0.05])
    assert residual_scales(attach(layers=(0, 1), residual="per_layer", residual_scale=0.2).adapter) == pytest.approx(
        [0.2, 0.2]
    )


def test_a_training_step_logs_means_over_places(attach: Callable[..., SafeModel], batches: list[Questions]) -> None:
    model = attach(kind="gated", layers=(0, 1))
    with recording(model.adapter) as seen:
        model.forward(batches[0].inputs, batches[0].audio)
    told = fusion_figures(model.adapter, fusion_sums(seen))
    halves = fusion_sums(seen[:1]) + fusion_sums(seen[1:])
    assert told == pytest.approx(fusion_figures(model.adapter, halves))
    assert told["residual_ratio"] == pytest.approx(sum(float(each.ratio[each.hears].mean()) for each in seen) / 2)
    assert told["open_gate"] == 0.5
    assert fusion_figures(model.adapter, fusion_sums([])) == {}


def test_stage_a_logs_them_at_every_step(
    attach: Callable[..., SafeModel], samples: list[Sample], tmp_path: Path
) -> None:
    config = StageAConfig(
        steps=3, batch_size=4, gate_warmup_steps=2, eval_every=3, eval_samples=4, guard=GuardConfig(max_drop=1.0)
    )
    train_stage_a(attach(), samples, samples, config, tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3]
    # At the first step the gate is one half, and so is the residual.
    assert train[1]["residual_ratio"] == pytest.approx(2 * train[0]["residual_ratio"], rel=0.1)
    assert train[0]["residual_scale"] == pytest.approx(0.05)
