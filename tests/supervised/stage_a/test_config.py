from __future__ import annotations

import re
from typing import Any

import pytest

from supervised.config import FusionConfig, ModelConfig, ProjectorConfig
from supervised.errors import ConfigError
from supervised.stage_a.config import AudioCurriculumConfig, GuardConfig, LossConfig, StageAConfig

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (StageAConfig, "steps", 0, "stage_a.steps must be at least 1, got 0; use e.g. 100."),
        (StageAConfig, "accumulate", 0, "stage_a.accumulate must be at least 1, got 0"),
        (StageAConfig, "projector_lr", 0.0, "stage_a.projector_lr must be above 0 and finite, got 0.0"),
        (StageAConfig, "gate_lr", INFINITE, "stage_a.gate_lr must be above 0 and finite, got inf"),
        (StageAConfig, "weight_decay", -0.1, "stage_a.weight_decay must be at least 0 and finite, got -0.1"),
        (StageAConfig, "warmup_steps", -1, "stage_a.warmup_steps must not be below 0, got -1"),
        (StageAConfig, "restarts", -1, "stage_a.restarts must not be below 0, got -1"),
        (StageAConfig, "budgets", (8, 4), "stage_a.budgets must be rising numbers >= 1, got [8, 4]"),
        (StageAConfig, "audio_share", 0.0, "stage_a.audio_share must be above 0 and at most 1, got 0.0"),
        (StageAConfig, "small_rate", 2.0, "stage_a.small_rate must be above 0 and at most 1, got 2.0"),
        (StageAConfig, "phases", (0.5, 0.6, 0.3), "stage_a.phases must be three shares that sum to 1, got [0.5, 0.6,"),
        (StageAConfig, "phases", (-0.5, 0.5, 1.0), "stage_a.phases must be three shares that sum to 1, got [-0.5,"),
        (StageAConfig, "train_base", True, "stage_a.train_base moves the base, so nothing can be held near it; set"),
        (LossConfig, "task", -1.0, "stage_a.loss.task must be at least 0 and finite, got -1.0"),
        (LossConfig, "fisher", INFINITE, "stage_a.loss.fisher must be at least 0 and finite, got inf"),
        (LossConfig, "temperature", INFINITE, "stage_a.loss.temperature must be above 0 and finite, got inf"),
        (LossConfig, "anchor_tokens", 0, "stage_a.loss.anchor_tokens must be at least 1, got 0"),
        (LossConfig, "weights", "free", "stage_a.loss.weights must be static, stages or adaptive, got free"),
        (AudioCurriculumConfig, "shares", (0.5, 0.25, 1.0), "stage_a.curriculum.shares must be rising shares that end"),
        (AudioCurriculumConfig, "shares", (0.25, 0.5), "stage_a.curriculum.shares must be rising shares that end with"),
        (AudioCurriculumConfig, "shares", (0.0, 1.0), "stage_a.curriculum.shares must be rising shares that end with"),
        (AudioCurriculumConfig, "accuracy", 70.0, "stage_a.curriculum.accuracy must lie between 0 and 1, got 70.0"),
        (GuardConfig, "max_drop", -0.1, "stage_a.guard.max_drop must be at least 0 and finite, got -0.1"),
        (GuardConfig, "patience", 0, "stage_a.guard.patience must be at least 1, got 0"),
        (GuardConfig, "roll_backs", -1, "stage_a.guard.roll_backs must not be below 0, got -1"),
        (GuardConfig, "null_space", 1.0, "stage_a.guard.null_space must be at least 0 and below 1, got 1.0"),
        (GuardConfig, "on_breach", "pray", "stage_a.guard.on_breach must be roll_back, stop or go_on, got pray"),
    ],
)
def test_values_out_of_range_are_refused(kind: type, name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        kind(**{name: value})


def test_stage_weights_without_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.weights is stages, but stage_a\.curriculum\.shares is \[\]; give e"):
        StageAConfig(loss=LossConfig(weights="stages"))


def test_a_stage_without_an_evaluation_is_refused() -> None:
    curriculum = AudioCurriculumConfig(shares=(0.25, 0.5, 0.75, 1.0))
    StageAConfig(steps=800, eval_every=200, curriculum=curriculum)
    with pytest.raises(ConfigError, match=r"eval_every is 200, but 799 steps in 4 stages need .*; use at most 199, or"):
        StageAConfig(steps=799, eval_every=200, curriculum=curriculum)


def test_a_fisher_term_without_a_phase_that_it_holds_in_is_refused() -> None:
    fisher = LossConfig(fisher=10.0)
    StageAConfig(steps=10, phases=(0.9, 0.0, 0.1), loss=fisher)
    StageAConfig(phases=(1.0, 0.0, 0.0))
    for phases in ((1.0, 0.0, 0.0), (0.96, 0.04, 0.0)):  # 0.4 of ten steps are no step
        with pytest.raises(ConfigError, match=r"^stage_a\.loss\.fisher is 10\.0, but .* none in 10 steps; set it to 0"):
            StageAConfig(steps=10, phases=phases, loss=fisher)


def test_a_null_space_is_for_an_adapter_that_fuses() -> None:
    config = StageAConfig(guard=GuardConfig(null_space=0.5))
    config.require(ModelConfig())
    StageAConfig().require(ModelConfig(fusion=FusionConfig(injection="tokens")))
    with pytest.raises(ConfigError, match=r"^stage_a\.guard\.null_space is 0\.5, but inserted tokens have no fusion"):
        config.require(ModelConfig(fusion=FusionConfig(injection="tokens")))


def test_sparsity_is_for_a_projector_that_can_be_sparse() -> None:
    config = StageAConfig(loss=LossConfig(sparsity=0.1))
    config.require(ModelConfig(projector=ProjectorConfig(kind="adaptive")))
    with pytest.raises(ConfigError, match=r"^stage_a\.loss\.sparsity is 0\.1, but a projector of kind mlp always uses"):
        config.require(ModelConfig())


def test_a_loss_without_task_and_distillation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.task and stage_a\.loss\.distill are both 0; give one of them"):
        LossConfig(task=0, distill=0)
