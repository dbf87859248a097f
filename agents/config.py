"""Configuration of the agent: plain frozen values, no heavy import, each refusing nonsense itself.

The defaults of `PPOConfig` are those of the demo, chosen by measurement on several seeds (`benchmarks/ppo_speed.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from envs.config import RewardConfig
from supervised.errors import ConfigError


def _require(name: str, value: float, allowed: str, fine: bool, example: str) -> None:
    """Raise the one-line error of a value that is out of range."""
    if not (fine and math.isfinite(value)):
        raise ConfigError(f"{name} must be {allowed}, got {value}; use e.g. {example}.")


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (arXiv:1707.06347), sized for an environment that answers a whole batch at once."""

    learning_rate: float = 1e-3
    """Step size of Adam at the start of training."""
    final_learning_rate: float = 1e-4
    """Step size of Adam at the end; it falls linearly in between."""
    num_envs: int = 2000
    """Questions answered at once; num_envs * n_steps samples make one rollout."""
    n_steps: int = 1
    """Steps of every environment in a rollout; 1 suits one-step episodes."""
    batch_size: int = 500
    """Samples of one gradient step; it divides num_envs * n_steps."""
    n_epochs: int = 4
    """Passes over every rollout."""
    gamma: float = 0.99
    """Discount of rewards."""
    gae_lambda: float = 0.95
    """Trade-off of bias and variance in the reward advantage (arXiv:1506.02438)."""
    cost_gamma: float = 0.99
    """Discount of costs inside their advantage; the limit holds for undiscounted episodes."""
    cost_gae_lambda: float = 0.95
    """As gae_lambda, for costs."""
    clip_range: float = 0.2
    """How far one update may move the probability of an action, as a ratio."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the reward critic's squared error."""
    cost_value_coefficient: float = 0.5
    """Weight of the cost critics' squared error, summed over constraints."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient."""
    normalize_advantage: bool = True
    """Whether the mixed advantage is standardised in every minibatch."""
    target_kl: float | None = None
    """Ends the passes over a rollout once the policy has moved 1.5 times this far; None: never."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and critics, each with its own."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "n_steps", "batch_size", "n_epochs"):
            value = getattr(self, name)
            _require(f"ppo.{name}", value, "a whole number of at least 1", value >= 1, str(getattr(PPOConfig, name)))
        for name in ("gamma", "gae_lambda", "cost_gamma", "cost_gae_lambda"):
            value = getattr(self, name)
            _require(f"ppo.{name}", value, "between 0 and 1", 0 <= value <= 1, str(getattr(PPOConfig, name)))
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            value = getattr(self, name)
            _require(f"ppo.{name}", value, "> 0", value > 0, str(getattr(PPOConfig, name)))
        for name in ("final_learning_rate", "entropy_coefficient", "value_coefficient", "cost_value_coefficient"):
            value = getattr(self, name)
            _require(f"ppo.{name}", value, ">= 0", value >= 0, str(getattr(PPOConfig, name)))
        if self.target_kl is not None:
            _require("ppo.target_kl", self.target_kl, "> 0, or null", self.target_kl > 0, "0.02")
        for width in self.hidden:
            _require("ppo.hidden", width, "a list of widths of at least 1", width >= 1, "[64, 64]")
        samples = self.num_envs * self.n_steps
        if samples < 2:
            raise ConfigError(
                f"ppo.num_envs * ppo.n_steps must be at least 2, got {samples}, because one sample has nothing "
                f"to compare with; use e.g. num_envs 2000."
            )
        if samples % self.batch_size:
            raise ConfigError(
                f"ppo.batch_size must divide ppo.num_envs * ppo.n_steps = {samples}, got {self.batch_size}; "
                f"use e.g. {samples}."
            )


@dataclass(frozen=True)
class LagrangianConfig:
    """Dual ascent on one multiplier per constraint, and the choice of the policy that meets the limit."""

    limit: float | tuple[float, ...] = 0.003
    """Largest mean cost allowed (0.003: the base's score may drop by 0.3 points); one number, or one per constraint."""
    lr: float = 50.0
    """Step size, in multiplier per unit of excess cost, once per rollout."""
    initial: float = 0.0
    """Multiplier at the start."""
    maximum: float = 20.0
    """Largest multiplier; 0 switches the constraint off."""
    margin: float = 1.0
    """Standard errors that a policy's validation cost keeps below the limit, where a policy of the run can."""

    def __post_init__(self) -> None:
        for limit in self.limit if isinstance(self.limit, tuple) else (self.limit,):
            _require("lagrangian.limit", limit, "a number >= 0, or a list of them", limit >= 0, "0.003")
        if self.limit == ():
            raise ConfigError("lagrangian.limit must be a number or a list of at least one, got []; use e.g. 0.003.")
        _require("lagrangian.lr", self.lr, "> 0", self.lr > 0, "50")
        _require("lagrangian.maximum", self.maximum, ">= 0", self.maximum >= 0, "20")
        _require(
            "lagrangian.initial",
            self.initial,
            f"between 0 and lagrangian.maximum = {self.maximum}",
            0 <= self.initial <= self.maximum,
            "0",
        )
        _require("lagrangian.margin", self.margin, ">= 0", self.margin >= 0, "1")

    def limits(self, n_constraints: int) -> list[float]:
        """Return one limit per constraint.

        Raises:
            ConfigError: a list of another length was given.
        """
        if not isinstance(self.limit, tuple):
            return [float(self.limit)] * n_constraints
        if len(self.limit) != n_constraints:
            raise ConfigError(
                f"lagrangian.limit must be one number or {n_constraints} (one per constraint), "
                f"got {len(self.limit)}: {list(self.limit)}; use e.g. 0.003."
            )
        return [float(limit) for limit in self.limit]


@dataclass(frozen=True)
class CurriculumConfig:
    """The latency price alpha grows linearly from `initial` to `reward.alpha` and stays there."""

    steps: int = 20_000
    """Steps until alpha is final, counted from the first step of the run; 0: final from the start."""
    initial: float = 0.0
    """Alpha at the first step."""

    def __post_init__(self) -> None:
        _require("curriculum.steps", self.steps, "a whole number >= 0", self.steps >= 0, "20000")
        _require("curriculum.initial", self.initial, ">= 0", self.initial >= 0, "0")

    def alpha(self, step: int, final: float) -> float:
        """Return alpha after `step` environment steps of the run."""
        if step >= self.steps:
            return final
        return self.initial + (final - self.initial) * step / self.steps


@dataclass(frozen=True)
class AgentConfig:
    """Everything that makes one agent."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    lagrangian: LagrangianConfig = field(default_factory=LagrangianConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    total_timesteps: int = 100_000
    """Decisions to learn from; the run ends with the rollout that reaches them."""
    checkpoint_every: int = 10
    """Rollouts between two checkpoints, where a folder for them is given."""

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "checkpoint_every"):
            value = getattr(self, name)
            _require(name, value, "a whole number of at least 1", value >= 1, str(getattr(AgentConfig, name)))
