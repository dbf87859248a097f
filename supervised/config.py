"""Configuration of data, model and Stage A: plain frozen values, no heavy import, each refusing nonsense itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from supervised.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Where questions come from: SoundScenes (synthetic or with real recordings), or a manifest."""

    manifest: str | None = None
    """JSONL manifest with all splits; None: SoundScenes is generated on the spot."""
    recordings: str | None = None
    """Folder of real recordings in the ESC-10 or ESC-50 layout for SoundScenes; None: its synthesiser."""
    adapter: int = 6000
    """SoundScenes: questions that Stage A learns from."""
    train: int = 12000
    """SoundScenes: questions that the policy learns from."""
    validation: int = 4000
    """SoundScenes: questions for early stopping, thresholds and the retention buffer."""
    calibration: int = 8000
    """SoundScenes: questions kept for certificates."""
    test: int = 4000
    """SoundScenes: questions for the final figures."""
    retention_share: float = 0.55
    """SoundScenes: share of vl questions, which need no audio."""
    seed: int = 0
    """Seed of the generator."""

    def __post_init__(self) -> None:
        if self.manifest is not None and self.recordings is not None:
            raise ConfigError("data.manifest and data.recordings are both given; give one of them.")
        for name in ("adapter", "train", "validation", "calibration", "test"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1, got {getattr(self, name)}; use e.g. 2000.")
        if self.seed < 0:
            raise ConfigError(f"data.seed must not be below 0, got {self.seed}; use e.g. 0.")
        if not 0 < self.retention_share < 1:
            raise ConfigError(
                f"data.retention_share must lie between 0 and 1 (exclusive), got {self.retention_share}; use e.g. 0.55."
            )


def check_budgets(name: str, budgets: tuple[int, ...]) -> None:
    """Refuse token budgets that do not rise from 1 or more.

    Raises:
        ConfigError: names the setting `name`.
    """
    if any(budget < 1 for budget in budgets) or list(budgets) != sorted(set(budgets)):
        raise ConfigError(f"{name} must be rising numbers >= 1, got {list(budgets)}; use e.g. [4, 8], or [] for none.")


@dataclass(frozen=True)
class ProjectorConfig:
    """From the audio encoder's tokens to a few tokens of the base's width."""

    tokens: int = 8
    """Audio tokens a clip is told in: 4, 8, 12 or 16."""
    hidden: int | None = None
    """Width of the hidden layer; None: the base's width."""

    def __post_init__(self) -> None:
        if self.tokens not in (4, 8, 12, 16):
            raise ConfigError(f"projector.tokens must be 4, 8, 12 or 16, got {self.tokens}; use e.g. 8.")
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"projector.hidden must be at least 1, got {self.hidden}; use e.g. 512, or leave it out.")

    def require(self, name: str, budgets: tuple[int, ...]) -> None:
        """Refuse token budgets that ask for more tokens than there are.

        Raises:
            ConfigError: names the setting `name`.
        """
        if budgets and max(budgets) > self.tokens:
            raise ConfigError(
                f"{name} has a budget of {max(budgets)} audio tokens, but model.projector.tokens is {self.tokens}; "
                f"use budgets up to {self.tokens}, or an adapter with more tokens (at most 16)."
            )


@dataclass(frozen=True)
class FusionConfig:
    """Cross-attention from the prompt's embeddings to the audio tokens."""

    heads: int = 4
    """Attention heads; must divide the base's embedding width."""
    query_norm: bool = True
    """LayerNorm on the query; without it the embeddings are only divided by the base's embedding RMS."""
    residual_scale: float = 0.05
    """Size of the residual at first, in units of the base's embedding RMS."""
    learn_residual_scale: bool = True
    """Train the size of the residual; false: it stays as it is."""
    lora_rank: int = 8
    """Rank of the LoRA matrices on the query and value projections."""
    lora_alpha: float = 16
    """LoRA's scale is alpha / rank."""
    scope: Literal["prompt"] = "prompt"
    """Positions that hear: all of the prompt, none of the answer."""

    def __post_init__(self) -> None:
        for name in ("heads", "lora_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"fusion.{name} must be at least 1, got {getattr(self, name)}; use e.g. 4.")
        for name in ("residual_scale", "lora_alpha"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):  # at 0 the rest of the adapter would have no gradient
                raise ConfigError(f"fusion.{name} must be above 0 and finite, got {value}; use e.g. 0.05.")
        if self.scope != "prompt":
            raise ConfigError(f"fusion.scope must be prompt, got {self.scope}; leave it out.")


@dataclass(frozen=True)
class ModelConfig:
    """A frozen base, a frozen audio encoder and the adapter between them."""

    base: str = "demo"
    """Vision-language model: a folder, a Hugging Face id, or demo (ships with the package)."""
    base_revision: str | None = None
    """Commit of the base on the Hugging Face hub; None: the newest."""
    encoder: str = "demo"
    """CLAP audio encoder: a folder, a Hugging Face id, or demo (ships with the package)."""
    encoder_revision: str | None = None
    """Commit of the encoder on the Hugging Face hub; None: the newest."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers that the base computes in; auto: those of its checkpoint. The adapter always computes in float32."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, ..."""
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def __post_init__(self) -> None:
        for name in ("base", "encoder"):
            if not getattr(self, name):
                raise ConfigError(f"model.{name} is empty; give a folder, a Hugging Face id, or demo.")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"model.dtype must be auto, float32 or bfloat16, got {self.dtype}; use e.g. auto.")


@dataclass(frozen=True)
class StageAConfig:
    """Training of the adapter (Stage A): hear where there is something to hear, stay the base elsewhere."""

    steps: int = 1000
    """Optimiser steps at most; early stopping may end sooner."""
    batch_size: int = 64
    """Questions per step, with and without need of audio as the data mix them."""
    projector_lr: float = 1e-3
    """Peak learning rate of the projector; 1e-4 for a base of billions of parameters."""
    fusion_lr: float = 1e-3
    """Peak learning rate of the cross-attention and of the residual scale; 5e-5 for a large base."""
    marker_lr: float = 1e-3
    """Peak learning rate of the marker embeddings; 1e-4 for a large base."""
    weight_decay: float = 0.01
    """Decay of matrices; markers, norms, biases and the residual scale have none."""
    warmup_steps: int = 50
    """Steps in which the learning rates rise from 0; afterwards they follow a cosine to 0."""
    gate_warmup_steps: int = 200
    """Steps in which the gate rises to 1; 2000 for a large base."""
    task_weight: float = 1.0
    """Weight of the cross-entropy on questions with audio."""
    distill_weight: float = 1.0
    """Weight of the distillation towards the base on retention questions with irrelevant audio."""
    temperature: float = 3.0
    """Temperature of the distillation."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    budgets: tuple[int, ...] = ()
    """Audio tokens to get by with, one budget drawn per step; []: those of outcomes.budgets, or all tokens always."""
    eval_every: int = 200
    """Steps between two evaluations."""
    eval_samples: int = 800
    """Validation questions of an evaluation at most."""
    max_drop: float = 0.03
    """Largest drop on retention questions that a best step may have; with none within it, the smallest drop wins."""
    patience: int = 3
    """Evaluations without a better one, after the gate's warm-up, that end the training."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; the only value that may change when a run goes on."""
    seed: int = 0
    """Seed of the order of the questions."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "eval_samples", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stage_a.{name} must be at least 1, got {getattr(self, name)}; use e.g. 100.")
        for name in ("warmup_steps", "gate_warmup_steps", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"stage_a.{name} must not be below 0, got {getattr(self, name)}; use e.g. 0.")
        for name in ("projector_lr", "fusion_lr", "marker_lr", "temperature", "clip_norm"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"stage_a.{name} must be above 0 and finite, got {value}; use e.g. 1e-3.")
        for name in ("weight_decay", "task_weight", "distill_weight", "max_drop"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"stage_a.{name} must be at least 0 and finite, got {value}; use e.g. 0.01.")
        check_budgets("stage_a.budgets", self.budgets)
        if self.task_weight == self.distill_weight == 0:
            raise ConfigError("stage_a.task_weight and stage_a.distill_weight are both 0; give one of them, e.g. 1.")
