"""Configuration of `pretrain_demo`, which makes the tiny models that ship with the demo."""

from __future__ import annotations

from dataclasses import dataclass, field

from supervised.errors import ConfigError


@dataclass(frozen=True)
class EncoderPretraining:
    """How the tiny CLAP learns to name sounds."""

    clips: int = 18000
    """Clips in the training pool, two thirds of them mixed from recordings where a folder is given."""
    steps: int = 3000
    """Optimiser steps."""
    batch_size: int = 64
    """Clips per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    folds: tuple[int, ...] = (1, 2, 3)
    """Folds of the recordings to learn from."""
    seed: int = 0
    """Seed of clips, weights and order."""

    def __post_init__(self) -> None:
        if min(self.clips, self.steps, self.batch_size) < 1 or self.lr <= 0:
            raise ConfigError("encoder.clips, steps, batch_size and lr must be > 0; use e.g. the defaults.")


@dataclass(frozen=True)
class BasePretraining:
    """How the tiny vision-language model learns to answer."""

    vision_steps: int = 200
    """Steps of dense supervision of the vision tower: class and colour of every patch."""
    text_steps: int = 3000
    """Steps of the language model on exact patches."""
    joint_steps: int = 1500
    """Steps of all parts together on rendered pictures."""
    batch_size: int = 128
    """Questions per step."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of scenes, weights and order."""

    def __post_init__(self) -> None:
        if min(self.vision_steps, self.text_steps, self.joint_steps, self.batch_size) < 1 or self.lr <= 0:
            raise ConfigError("base.*_steps, batch_size and lr must be > 0; use e.g. the defaults.")


@dataclass(frozen=True)
class PretrainConfig:
    """Both models of the demo and where real recordings lie."""

    recordings: str | None = None
    """ESC-10 or ESC-50 folder to learn from beside synthesised sounds (folds 1 to 3); None: synthesised only."""
    encoder: EncoderPretraining = field(default_factory=EncoderPretraining)
    base: BasePretraining = field(default_factory=BasePretraining)
    figure_questions: int = 3000
    """Unseen questions that the figures are measured on."""
    figure_clips: int = 1000
    """Unseen synthesised clips that the figures are measured on."""
