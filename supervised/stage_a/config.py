"""Settings of Stage A; every field is an option of `python -m safe_rl.train_policy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from supervised.config import ModelConfig, check_budgets, check_choice
from supervised.errors import ConfigError

TERMS = ("task", "distill", "feature", "fisher", "sparsity")
"""Terms of the loss; each has a weight in `LossConfig`."""


@dataclass(frozen=True)
class LossConfig:
    """The terms of Stage A's loss: hear what the audio says, stay the base where it says nothing."""

    task: float = 1.0
    """Weight of the cross-entropy on questions that need audio."""
    distill: float = 1.5
    """Weight of the distillation towards the base on retention questions with irrelevant audio."""
    feature: float = 0.3
    """Weight of the distance to the base's states on the same questions."""
    fisher: float = 0.0
    """Weight of the Fisher penalty on moving what the retention questions depend on."""
    sparsity: float = 0.0
    """Weight of the share of tokens that an adaptive projector uses."""
    temperature: float = 3.0
    """Temperature of the distillation."""
    anchor_tokens: int = 20
    """Tokens of an answer, from its first, that are held near the base."""
    weights: Literal["static", "stages", "adaptive"] = "static"
    """static: as given; stages: times those of the curriculum's stage; adaptive: raised where a goal is missed."""

    def __post_init__(self) -> None:
        for name in TERMS:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"stage_a.loss.{name} must be at least 0 and finite, got {value}; use e.g. 1.")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"stage_a.loss.temperature must be above 0 and finite, got {self.temperature}; use e.g. 3."
            )
        if self.anchor_tokens < 1:
            raise ConfigError(f"stage_a.loss.anchor_tokens must be at least 1, got {self.anchor_tokens}; use e.g. 20.")
        check_choice("stage_a.loss.weights", self.weights, ("static", "stages", "adaptive"))
        if self.task == self.distill == 0:
            raise ConfigError("stage_a.loss.task and stage_a.loss.distill are both 0; give one of them, e.g. 1.")


@dataclass(frozen=True)
class AudioCurriculumConfig:
    """From few and easy audio questions to all of them: a stage ends when its goals are met, or its time is up."""

    shares: tuple[float, ...] = ()
    """Stage by stage, the share of the audio questions (easiest first) and of audio_share, e.g. [.25, .5, .75, 1]."""
    retention: float = 0.95
    """Goal of a stage, and of adaptive weights: retention score, as a share of the base's."""
    accuracy: float = 0.70
    """Goal of a stage, and of adaptive weights: score on questions that need audio."""
    loss_variation: float = 0.10
    """Goal of a stage: means of its latest five windows of losses deviate by at most this share of their mean."""

    def __post_init__(self) -> None:
        if self.shares and (
            any(not 0 < share <= 1 for share in self.shares)
            or list(self.shares) != sorted(self.shares)
            or self.shares[-1] != 1
        ):
            raise ConfigError(
                f"stage_a.curriculum.shares must be rising shares that end with 1, got {list(self.shares)}; "
                "use e.g. [0.25, 0.5, 0.75, 1], or [] for no curriculum."
            )
        for name in ("retention", "accuracy", "loss_variation"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"stage_a.curriculum.{name} must lie between 0 and 1, got {value}; use e.g. 0.9.")


@dataclass(frozen=True)
class GuardConfig:
    """What ends a training that goes wrong, and what keeps it from doing so."""

    max_drop: float = 0.03
    """Largest drop on retention questions that a best step may have; with none within it, the smallest drop wins."""
    patience: int = 3
    """Evaluations without a better one, after the gate's warm-up, that end the curriculum's stage or the training."""
    breach: float = 0.10
    """Drop on retention questions at which the training does not go on as it was."""
    on_breach: Literal["roll_back", "stop", "go_on"] = "roll_back"
    """roll_back: to the best step, with the base held harder; stop: end there; go_on: only note it."""
    roll_backs: int = 3
    """Roll-backs before a breach ends the training."""
    null_space: float = 0.0
    """Share of the variance of what retention questions put into the fusion that no update may touch; 0: none."""

    def __post_init__(self) -> None:
        for name in ("max_drop", "breach"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"stage_a.guard.{name} must be at least 0 and finite, got {value}; use e.g. 0.03.")
        if self.patience < 1:
            raise ConfigError(f"stage_a.guard.patience must be at least 1, got {self.patience}; use e.g. 3.")
        if self.roll_backs < 0:
            raise ConfigError(f"stage_a.guard.roll_backs must not be below 0, got {self.roll_backs}; use e.g. 3.")
        if not 0 <= self.null_space < 1:
            raise ConfigError(
                f"stage_a.guard.null_space must be at least 0 and below 1, got {self.null_space}; use e.g. 0.9."
            )
        check_choice("stage_a.guard.on_breach", self.on_breach, ("roll_back", "stop", "go_on"))


@dataclass(frozen=True)
class StageAConfig:
    """Training of the adapter (Stage A): hear where there is something to hear, stay the base elsewhere."""

    steps: int = 1000
    """Optimiser steps at most; early stopping may end sooner."""
    batch_size: int = 64
    """Questions per step, over all processes."""
    accumulate: int = 1
    """Parts that a process computes its questions of a step in, where they do not fit at once."""
    audio_share: float = 0.5
    """Share of questions that need audio in a batch."""
    set_weights: dict[str, float] = field(default_factory=dict)
    """How much more often than by its size a set of questions is drawn, e.g. {vqav2: 0.5}; 0 leaves it out."""
    projector_lr: float = 1e-3
    """Peak learning rate of the projector; 1e-4 for a base of billions of parameters."""
    fusion_lr: float = 1e-3
    """Peak learning rate of the cross-attention; 5e-5 for a large base."""
    gate_lr: float = 1e-3
    """Peak learning rate of the fusion's residual scales and learned gates; 5e-4 for a large base."""
    marker_lr: float = 1e-3
    """Peak learning rate of the marker embeddings; 1e-4 for a large base."""
    weight_decay: float = 0.01
    """Decay of matrices; markers, norms, biases, residual scales and learned gates have none."""
    warmup_steps: int = 50
    """Steps in which the learning rates rise from 0; afterwards they follow a cosine to 0."""
    restarts: int = 0
    """Warm restarts of the cosine, at equal distances."""
    phases: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """Shares of the steps: projector alone; projector, fusion and markers; the same at small rates."""
    small_rate: float = 0.1
    """Factor on the peak rates in the last phase."""
    gate_warmup_steps: int = 200
    """Steps in which the gate rises to 1; 2000 for a large base."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    checkpointing: bool = False
    """Compute the base's layers again on the way back instead of keeping what they computed: slower, less memory."""
    budgets: tuple[int, ...] = ()
    """Audio tokens to get by with, one budget drawn per step; []: those of outcomes.budgets, or all tokens always."""
    eval_every: int = 200
    """Steps between two evaluations."""
    eval_samples: int = 800
    """Validation questions of an evaluation at most."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; it may change when a run goes on."""
    seed: int = 0
    """Seed of the order of the questions."""
    train_base: bool = False
    """Train the base's text stack too (float32), but for its word embeddings: naive; gate 0 is then not the base."""
    loss: LossConfig = field(default_factory=LossConfig)
    curriculum: AudioCurriculumConfig = field(default_factory=AudioCurriculumConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "eval_every", "eval_samples", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stage_a.{name} must be at least 1, got {getattr(self, name)}; use e.g. 100.")
        for name in ("warmup_steps", "gate_warmup_steps", "restarts", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"stage_a.{name} must not be below 0, got {getattr(self, name)}; use e.g. 0.")
        for name in ("projector_lr", "fusion_lr", "gate_lr", "marker_lr", "clip_norm"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"stage_a.{name} must be above 0 and finite, got {value}; use e.g. 1e-3.")
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(
                f"stage_a.weight_decay must be at least 0 and finite, got {self.weight_decay}; use e.g. 0.01."
            )
        _check_shares(self)
        check_budgets("stage_a.budgets", self.budgets)
        _check_stages(self)
        _check_fisher(self)
        if self.train_base:
            _check_naive(self.loss)

    def require(self, model: ModelConfig) -> None:
        """Refuse settings that ask a model of this configuration for what it does not have.

        Raises:
            ConfigError: names the setting.
        """
        model.projector.require("stage_a.budgets", self.budgets)
        if self.guard.null_space > 0 and model.fusion.injection == "tokens":
            raise ConfigError(
                f"stage_a.guard.null_space is {self.guard.null_space}, but inserted tokens have no fusion to protect; "
                "set it to 0, or use model.fusion.injection residual."
            )
        if self.loss.sparsity > 0 and model.projector.kind != "adaptive":
            raise ConfigError(
                f"stage_a.loss.sparsity is {self.loss.sparsity}, but a projector of kind {model.projector.kind} always "
                "uses all of its tokens; set it to 0, or use model.projector.kind adaptive."
            )


def _check_stages(config: StageAConfig) -> None:
    stages = len(config.curriculum.shares)
    if config.loss.weights == "stages" and not stages:
        raise ConfigError(
            "stage_a.loss.weights is stages, but stage_a.curriculum.shares is []; "
            "give e.g. [0.25, 0.5, 0.75, 1], or use static weights."
        )
    if config.eval_every * stages > config.steps:
        raise ConfigError(
            f"stage_a.eval_every is {config.eval_every}, but {config.steps} steps in {stages} stages need an "
            f"evaluation in each; use at most {max(1, config.steps // stages)}, or fewer stages."
        )


def _check_shares(config: StageAConfig) -> None:
    for name in ("audio_share", "small_rate"):
        if not 0 < getattr(config, name) <= 1:
            raise ConfigError(
                f"stage_a.{name} must be above 0 and at most 1, got {getattr(config, name)}; use e.g. 0.5."
            )
    if any(share < 0 for share in config.phases) or abs(sum(config.phases) - 1) > 1e-6:
        raise ConfigError(
            f"stage_a.phases must be three shares that sum to 1, got {list(config.phases)}; use e.g. [0.1, 0.6, 0.3]."
        )


def _check_fisher(config: StageAConfig) -> None:
    first = round(config.phases[0] * config.steps)  # steps of the first phase, which nothing is held in
    if config.loss.fisher > 0 and first >= config.steps:
        raise ConfigError(
            f"stage_a.loss.fisher is {config.loss.fisher}, but it holds from the second phase on, and with "
            f"stage_a.phases {list(config.phases)} there is none in {config.steps} steps; set it to 0, or use "
            "e.g. [0.1, 0.6, 0.3]."
        )


def _check_naive(loss: LossConfig) -> None:
    if loss.distill or loss.feature or loss.fisher:
        raise ConfigError(
            "stage_a.train_base moves the base, so nothing can be held near it; set stage_a.loss.distill, "
            "stage_a.loss.feature and stage_a.loss.fisher to 0."
        )
