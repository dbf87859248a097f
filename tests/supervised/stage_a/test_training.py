from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import CONFIG, lines, questions, run, traces
from torch.optim.optimizer import register_optimizer_step_post_hook

from supervised.errors import ConfigError, DataError, ModelError
from supervised.safe_model import SafeModel
from supervised.stage_a.config import AudioCurriculumConfig, GuardConfig, LossConfig
from supervised.stage_a.schedule import budget_at
from supervised.stage_a.training import train_stage_a

STILL = replace(
    CONFIG,
    projector_lr=1e-12,
    fusion_lr=1e-12,
    gate_lr=1e-12,
    marker_lr=1e-12,
    eval_every=1,
    guard=GuardConfig(max_drop=1.0, patience=2),
)
"""A run in which no evaluation is better than the first one."""
STILL_IN_STAGES = replace(
    STILL, steps=30, checkpoint_every=1, curriculum=AudioCurriculumConfig(shares=(0.4, 0.7, 1.0), accuracy=1.0)
)


@pytest.mark.slow
def test_the_adapter_learns_and_the_base_does_not_change(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    model = attach()
    before = {name: value.clone() for name, value in model.base.state_dict().items()}
    config = replace(
        CONFIG,
        steps=60,
        batch_size=12,
        projector_lr=0.02,
        fusion_lr=0.02,
        gate_lr=0.02,
        marker_lr=0.02,
        eval_every=60,
        loss=LossConfig(distill=0),
    )
    result = run(model, tmp_path, config)
    train = [line for line in lines(tmp_path) if line["kind"] == "train"]
    assert train[-1]["task_loss"] < 0.5 * train[0]["task_loss"]
    assert result.audio_accuracy >= result.base_audio_accuracy
    assert all(torch.equal(value, before[name]) for name, value in model.base.state_dict().items())
    assert all(parameter.grad is None for parameter in model.base.parameters())


@pytest.mark.slow
def test_distillation_holds_the_model_near_its_base(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    def last(weight: float) -> float:
        config = replace(
            CONFIG,
            steps=40,
            batch_size=12,
            fusion_lr=0.01,
            gate_lr=0.01,
            projector_lr=0.01,
            eval_every=99,
            loss=LossConfig(distill=weight),
        )
        run(attach(), tmp_path / str(weight), replace(config, loss=LossConfig(distill=weight)))
        train = [line["distill_loss"] for line in lines(tmp_path / str(weight)) if line["kind"] == "train"]
        return float(np.mean(train[-5:]))

    assert last(5.0) < 0.5 * last(1e-9)


def test_patience_ends_a_run_that_gets_no_better(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    result = run(attach(), tmp_path, STILL)
    # The gate's warm-up takes 3 steps; patience counts evaluations from the third on.
    assert (result.stopped_early, result.steps, result.best_step) == (True, 4, 1)


def test_with_a_curriculum_patience_ends_stages_and_the_run_in_the_last_one(
    attach: Callable[[], SafeModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(attach(), tmp_path, STILL_IN_STAGES)
    told = [line for line in capsys.readouterr().err.splitlines() if " ends: " in line]
    # In steps 4 and 5 nothing gets better; steps 1 to 3 are the gate's warm-up. The second stage ends two later.
    assert [line.partition(" (")[0] for line in told] == [
        f"Stage A, step {step}: stage {stage} of 3 ends: 2 evaluations without a better one"
        for step, stage in ((4, 1), (6, 2))
    ]
    assert [line["stage"] for line in lines(tmp_path) if line["kind"] == "evaluation"] == [1, 1, 1, 2, 2, 3, 3, 3]
    assert (result.stopped_early, result.steps, result.best_step) == (True, 8, 1)
    assert result.reason == "2 evaluations without a better one"


@pytest.mark.parametrize("step", [4, 5, 7])
def test_a_run_whose_stages_end_by_patience_goes_on_bit_for_bit(
    attach: Callable[[], SafeModel], tmp_path: Path, step: int
) -> None:
    run(attach(), tmp_path / "whole", STILL_IN_STAGES)
    updates = iter(range(1, 100))

    def crash(*_: Any) -> None:
        if next(updates) == step + 1:
            raise RuntimeError("power cut")

    handle = register_optimizer_step_post_hook(crash)
    try:
        with pytest.raises(RuntimeError, match="power cut"):
            run(attach(), tmp_path / "parts", STILL_IN_STAGES)
    finally:
        handle.remove()
    run(attach(), tmp_path / "parts", STILL_IN_STAGES, resume=True)
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")


def test_a_run_that_diverges_says_what_to_lower(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    wild = replace(CONFIG, projector_lr=1e30, fusion_lr=1e30, warmup_steps=0, eval_every=100)
    with pytest.raises(
        ModelError, match=r"Stage A diverged at step \d \(gradient norm \w+\); lower stage_a\.fusion_lr"
    ):
        run(attach(), tmp_path, wild)


def test_missing_kinds_of_questions_are_refused_with_a_remedy(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    everything, only_audio = questions(4, 0), questions(4, 0, retention=False)
    only_retention = [sample for sample in everything if sample.retention_set]
    silent = [replace(sample, audio=None) for sample in everything]
    for i, (train, validation, message) in enumerate(
        [
            (
                only_audio,
                everything,
                r"no training question needs no audio .*; add some, or set stage_a\.loss\.distill",
            ),
            (
                only_retention,
                everything,
                r"no training question needs audio and has a clip; .* stage_a\.loss\.task to 0",
            ),
            (silent, everything, "no training question needs audio and has a clip"),
            (everything, silent, "no validation question has audio"),
        ]
    ):
        with pytest.raises(DataError, match=message):
            train_stage_a(attach(), train, validation, CONFIG, tmp_path / str(i), progress=False)


def test_only_the_tokens_of_the_budgets_are_trained(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    model = attach()
    before = model.adapter.get_parameter("projector.queries").detach().clone()
    result = run(model, tmp_path, replace(CONFIG, budgets=(2, 4), weight_decay=0.0))
    saved = SafeModel.from_pretrained(result.adapter).adapter.get_parameter("projector.queries")
    assert not torch.equal(saved[:2], before[:2])
    assert not torch.equal(saved[2:4], before[2:4])
    assert torch.equal(saved[4:], before[4:])


def test_figures_with_budgets_are_their_mean_accuracy_and_their_worst_retention(
    attach: Callable[[], SafeModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int | None] = []
    model = attach()
    generate = model.generate

    def listen(inputs: Any, audio: Any = None, **options: Any) -> Any:
        heard.append(options["budget"])
        return generate(inputs, audio, **options)

    monkeypatch.setattr(model, "generate", listen)
    result = run(model, tmp_path, replace(CONFIG, budgets=(2, 8)))
    assert heard == [None, *[2, 8] * 3]  # the base, then three evaluations
    figures = [line for line in lines(tmp_path) if line["kind"] == "evaluation"]
    for line in figures:
        assert line["audio_accuracy"] == (line["audio_accuracy_2"] + line["audio_accuracy_8"]) / 2
        assert line["retention_score"] == min(line["retention_score_2"], line["retention_score_8"])
        assert line["drop"] == result.base_retention_score - line["retention_score"]
    drawn = [line["budget"] for line in lines(tmp_path) if line["kind"] == "train"]
    assert drawn == [budget_at(step, replace(CONFIG, budgets=(2, 8))) for step in range(7)]


def test_a_budget_above_the_adapters_tokens_is_refused_before_anything_is_read(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"stage_a\.budgets has a budget of 16 audio tokens, but .* is 8"):
        run(attach(), tmp_path, replace(CONFIG, budgets=(4, 16)))
