"""Configuration of the search for better settings: what may vary, how trials are judged, and who runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from supervised.errors import ConfigError

FLOATS = {
    "alpha": "reward.alpha",
    "gamma": "reward.gamma",
    "multiplier_initial": "lagrangian.initial",
    "multiplier_lr": "lagrangian.lr",
    "multiplier_maximum": "lagrangian.maximum",
    "learning_rate": "{agent}.learning_rate",
    "entropy_coefficient": "{agent}.entropy_coefficient",
    "clip_range": "ppo.clip_range",
}
"""Field of the space -> key of the run, for real numbers; keys of ppo are left out where another agent learns."""
INTEGERS = {"n_epochs": "ppo.n_epochs"}
CHOICES = {"batch_size": "{agent}.batch_size", "hidden": "{agent}.hidden"}


@dataclass(frozen=True)
class SpaceConfig:
    """The space of settings: a range [low, high] or a list of choices each; null keeps the run's own value."""

    alpha: tuple[float, float] | None = (0.2, 1.8)
    """Range of reward.alpha in training; trials are compared at the run's own alpha."""
    gamma: tuple[float, float] | None = (0.0, 0.4)
    """Range of reward.gamma in training; trials are compared at the run's own gamma."""
    multiplier_initial: tuple[float, float] | None = (0.0, 5.0)
    """Range of lagrangian.initial."""
    multiplier_lr: tuple[float, float] | None = (0.5, 50.0)
    """Range of lagrangian.lr."""
    multiplier_maximum: tuple[float, float] | None = (5.0, 80.0)
    """Range of lagrangian.maximum."""
    learning_rate: tuple[float, float] | None = (3e-4, 2e-2)
    """Range of the agent's learning_rate."""
    batch_size: tuple[int, ...] | None = (250, 500, 1000)
    """Choices of the agent's batch_size."""
    n_epochs: tuple[int, int] | None = (2, 10)
    """Range of ppo.n_epochs; the exact agent has none."""
    entropy_coefficient: tuple[float, float] | None = (1e-4, 5e-2)
    """Range of the agent's entropy_coefficient."""
    clip_range: tuple[float, float] | None = (0.1, 0.4)
    """Range of ppo.clip_range; the exact agent has none."""
    hidden: tuple[tuple[int, ...], ...] | None = ((64,), (128,), (256,), (64, 64))
    """Choices of the agent's hidden widths."""
    logarithmic: tuple[str, ...] = ("multiplier_lr", "multiplier_maximum", "learning_rate", "entropy_coefficient")
    """Ranges of this space whose values are drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        for name in self.logarithmic:
            if name not in FLOATS:
                raise ConfigError(
                    f"tune.space.logarithmic must name ranges of real numbers ({', '.join(FLOATS)}), got {name!r}; "
                    f"leave it out."
                )
        for name in (*FLOATS, *INTEGERS):
            self._check_range(name, getattr(self, name))
        for name in CHOICES:
            choices = getattr(self, name)
            if choices is not None and (not choices or len(set(choices)) < len(choices)):
                raise ConfigError(
                    f"tune.space.{name} must be a list of different choices, got {list(choices)}; give each once, or "
                    f"null to keep the run's own value."
                )
        if all(getattr(self, name) is None for name in (*FLOATS, *INTEGERS, *CHOICES)):
            raise ConfigError("tune.space is empty, every setting in it is null; give at least one a range.")

    def _check_range(self, name: str, ends: tuple[float, float] | None) -> None:
        if ends is None:
            return
        low, high = ends
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ConfigError(
                f"tune.space.{name} must be [low, high] with low <= high, got {list(ends)}; give e.g. "
                f"{list(getattr(SpaceConfig, name))}."
            )
        if name in self.logarithmic and low <= 0:
            raise ConfigError(
                f"tune.space.{name} is drawn on a logarithmic scale and must begin above 0, got {list(ends)}; give a "
                f"low above 0, or take it out of tune.space.logarithmic."
            )


@dataclass(frozen=True)
class TuneConfig:
    """The search for better settings that `tune` makes, on train and validation rows alone."""

    mode: Literal["single", "pareto"] = "single"
    """single: one objective, hopeless trials are pruned; pareto: accuracy against latency, nothing is pruned."""
    objective: Literal["utility", "accuracy"] = "utility"
    """What single raises: validation utility at the run's own reward, or accuracy (then set max_latency_ms)."""
    max_latency_ms: float | None = None
    """Mean validation latency that a trial must keep, beside the limit on the cost; null: any."""
    trials: int = 40
    """Trials of the whole study, whoever runs them; may grow later."""
    seeds_per_trial: int = 2
    """Policies per trial, with seeds 0, 1, ...; the value of a trial is the mean over them."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Where settings come from: a tree-structured Parzen estimator, or chance alone."""
    pruner: Literal["median", "none"] | None = None
    """Whether trials below the median of the earlier ones are ended early; null: median in single, none in pareto."""
    startup: int = 10
    """Trials at the start that are drawn at random; the first of them is the run's own configuration."""
    batch: int = 4
    """Trials that are drawn from the same earlier results; as many can run at once, and the study is the same."""
    workers: int = 2
    """Trials that this command runs at once, each in a process and on a core of its own."""
    seed: int = 0
    """Of the settings that are drawn."""
    storage: str | None = None
    """Journal file or database url (such as sqlite:///study.db) of the study; null: a journal in the run folder."""
    study: str = "safe_rl"
    """Name of the study in its storage."""
    space: SpaceConfig = field(default_factory=SpaceConfig)

    def __post_init__(self) -> None:
        for name, example in (("trials", 40), ("seeds_per_trial", 2), ("startup", 10), ("batch", 4), ("workers", 2)):
            if getattr(self, name) < 1:
                raise ConfigError(f"tune.{name} must be at least 1, got {getattr(self, name)}; use e.g. {example}.")
        if self.seed < 0:
            raise ConfigError(f"tune.seed must be a whole number >= 0, got {self.seed}; use e.g. 0.")
        if self.max_latency_ms is not None and not (self.max_latency_ms > 0 and math.isfinite(self.max_latency_ms)):
            raise ConfigError(f"tune.max_latency_ms must be > 0, or null, got {self.max_latency_ms}; use e.g. 20.")
        for name in ("storage", "study"):
            if getattr(self, name) == "":
                raise ConfigError(f"tune.{name} is empty; give a name or leave it out.")
        if self.mode == "pareto" and self.pruner == "median":
            raise ConfigError(
                "tune.pruner median does not go with tune.mode pareto, because a trial with two objectives has no "
                "order to be pruned by; leave tune.pruner out, or give --tune.mode single."
            )

    @property
    def prunes(self) -> bool:
        """Whether trials may be ended early."""
        return self.mode == "single" and self.pruner != "none"

    def first_of_batch(self, number: int) -> int:
        """Return the number of the first trial that is drawn together with trial `number`."""
        if number < self.startup:
            return 0
        return number - (number - self.startup) % self.batch
