"""Configuration of the reward and of the table build: plain frozen values, no heavy import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from supervised.config import check_budgets
from supervised.errors import ConfigError

LARGEST_PRICE = 1e6
"""In accuracy points: beyond it a reward in single precision no longer knows what an answer is worth."""


@dataclass(frozen=True)
class RewardConfig:
    """What a decision is worth: score - alpha * extra latency - gamma * irrelevance - token_weight * extra tokens."""

    alpha: float = 0.6
    """Accuracy points that one latency unit of extra latency costs; a curriculum rises to this value."""
    gamma: float = 0.1
    """Accuracy points that using audio on a retention question costs."""
    token_weight: float = 0.0
    """Accuracy points that one token unit of extra audio tokens costs; 0: off."""

    def __post_init__(self) -> None:
        for name in ("alpha", "gamma", "token_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"reward.{name} must be a finite number >= 0, got {value}; use e.g. 0.1.")
            if value > LARGEST_PRICE:
                raise ConfigError(f"reward.{name} must be at most {LARGEST_PRICE:g}, got {value}; use e.g. 0.1.")


@dataclass(frozen=True)
class OutcomesConfig:
    """How the outcome table is built."""

    batch_size: int = 64
    """Questions in one pass of the model."""
    rows_per_part: int = 4096
    """Rows in one file of the table; a build that was killed loses at most this much work."""
    cost_mode: Literal["cascade", "router"] = "cascade"
    """cascade: decide after the base pass, which gives confidence features; router: decide before it."""
    preview: Literal["mel", "clap"] = "mel"
    """What the policy hears: statistics of the first second, or the mean embedding of the audio encoder."""
    preview_bands: int = 16
    """Mel bands of the preview; each gives a mean and a spread."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    """How the features are stored."""
    max_new_tokens: int = 8
    """Longest answer, in tokens."""
    budgets: tuple[int, ...] = ()
    """Audio tokens to choose among, e.g. [4, 8, 16]: an action for each, beside skip; []: skip, or use with all."""
    exact_samples: int = 64
    """Questions on which gate 0 is compared with the plain base model, bit for bit."""
    latency_repeats: int = 15
    """Warm runs of every part of the latency profile; the median counts."""
    on_error: Literal["stop", "skip"] = "stop"
    """A damaged picture or clip, or a question that cannot be asked: stop, or leave it out and count it."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "rows_per_part", "preview_bands", "max_new_tokens", "exact_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"outcomes.{name} must be at least 1, got {getattr(self, name)}; use e.g. 16.")
        check_budgets("outcomes.budgets", self.budgets)
        if self.latency_repeats < 3:
            raise ConfigError(
                f"outcomes.latency_repeats must be at least 3 for a median, got {self.latency_repeats}; use e.g. 15."
            )
        for name, allowed in (
            ("cost_mode", ("cascade", "router")),
            ("preview", ("mel", "clap")),
            ("feature_dtype", ("float16", "float32")),
            ("on_error", ("stop", "skip")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"outcomes.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}; "
                    f"use {allowed[0]}."
                )
