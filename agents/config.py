"""Configuration of the agent: plain frozen values, no heavy import, each refusing nonsense itself.

The defaults of the agents were chosen by measurement on the demo's table and on tables whose best policy is known
(`benchmarks/known_optimum.py`, `benchmarks/ppo_speed.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agents.checks import per_constraint, require, require_activation, require_kinds, require_limits
from envs.config import LARGEST_PRICE, RewardConfig
from supervised.errors import ConfigError


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (arXiv:1707.06347), sized for an environment that answers a whole batch at once."""

    learning_rate: float = 8e-3
    """Step size of Adam at the start of training."""
    final_learning_rate: float = 1e-4
    """Step size of Adam at the end; it falls linearly in between."""
    num_envs: int = 2000
    """Questions answered at once; num_envs * n_steps samples make one rollout."""
    n_steps: int = 1
    """Steps of every environment in a rollout; 1 suits one-step episodes."""
    batch_size: int = 500
    """Samples of one gradient step; it divides num_envs * n_steps."""
    n_epochs: int = 2
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
    entropy_coefficient: float = 0.03
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
    hidden: tuple[int, ...] = (128,)
    """Widths of the policy's hidden layers."""
    critic_hidden: tuple[int, ...] = ()
    """Widths of the hidden layers of every critic; none: a critic is linear, enough where an episode is one step."""
    activation: Literal["relu", "tanh"] = "relu"
    """Between the layers of policy and critics."""
    averaging: float = 0.9
    """Weight of the past in the average of the weights over rollouts, which is what ships; 0: the last weights."""

    def __post_init__(self) -> None:
        require_kinds("ppo.", self)
        for name in ("num_envs", "n_steps", "batch_size", "n_epochs"):
            value = getattr(self, name)
            require(f"ppo.{name}", value, "a whole number of at least 1", value >= 1, str(getattr(PPOConfig, name)))
        for name in ("gamma", "gae_lambda", "cost_gamma", "cost_gae_lambda"):
            value = getattr(self, name)
            require(f"ppo.{name}", value, "between 0 and 1", 0 <= value <= 1, str(getattr(PPOConfig, name)))
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            require(f"ppo.{name}", value, "> 0", value > 0, str(getattr(PPOConfig, name)))
        clip = self.clip_range  # a ratio beyond any that means something would be no float32
        require("ppo.clip_range", clip, "above 0 and at most 1000", 0 < clip <= 1000, "0.2")
        for name in ("final_learning_rate", "entropy_coefficient", "value_coefficient", "cost_value_coefficient"):
            value = getattr(self, name)
            require(f"ppo.{name}", value, ">= 0", value >= 0, str(getattr(PPOConfig, name)))
        if self.target_kl is not None:
            require("ppo.target_kl", self.target_kl, "> 0, or null", self.target_kl > 0, "0.02")
        for name in ("hidden", "critic_hidden"):
            for width in getattr(self, name):
                require(f"ppo.{name}", width, "a list of widths of at least 1", width >= 1, "[128]")
        require_activation("ppo", self.activation)
        require("ppo.averaging", self.averaging, "at least 0 and below 1", 0 <= self.averaging < 1, "0.9")
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
    """One multiplier per constraint, how it follows the excess cost, and the choice of the policy that meets the limit.

    `lr` carries the unit, multiplier per unit of excess cost; `proportional` and `derivative` are multiples of it.
    """

    limit: float | tuple[float, ...] = 0.003
    """Largest mean cost allowed (0.003: the base's score may drop by 0.3 points); one number, or one per constraint."""
    update: Literal["sgd", "pi", "pid"] = "sgd"
    """sgd: dual ascent; pi: answers the present excess as well; pid: also a cost that rises (arXiv:2007.03964)."""
    lr: float = 20.0
    """Step size, in multiplier per unit of excess cost, once per rollout."""
    proportional: float = 1.0
    """Answer to the present excess, as a multiple of lr (pi, pid)."""
    derivative: float = 1.0
    """Answer to the rise of the cost since the last rollout, as a multiple of lr; a falling cost has none (pid)."""
    smoothing: float = 0.0
    """Weight of the past in the average cost that the two answers read; 0: the last measurement alone (pi, pid)."""
    initial: float | None = None
    """Multiplier at the start; null: the one that the train rows' own problem has, or 0 where none are given."""
    maximum: float = 20.0
    """Largest multiplier; 0 switches the constraint off."""
    margin: float = 0.5
    """Standard errors that a policy's measured cost keeps below the limit, where a policy of the run can."""

    def __post_init__(self) -> None:
        require_limits("lagrangian.limit", self.limit, "a number >= 0, or a list of them")
        require_kinds("lagrangian.", self)
        if self.update not in ("sgd", "pi", "pid"):
            raise ConfigError(f"lagrangian.update must be sgd, pi or pid, got {self.update!r}; use e.g. sgd.")
        require("lagrangian.lr", self.lr, "> 0", self.lr > 0, "20")
        for name in ("proportional", "derivative"):
            require(f"lagrangian.{name}", getattr(self, name), ">= 0", getattr(self, name) >= 0, "1")
        require("lagrangian.smoothing", self.smoothing, "at least 0 and below 1", 0 <= self.smoothing < 1, "0.5")
        require("lagrangian.maximum", self.maximum, ">= 0", self.maximum >= 0, "20")
        if self.initial is not None:
            require(
                "lagrangian.initial",
                self.initial,
                f"between 0 and lagrangian.maximum = {self.maximum}, or null",
                0 <= self.initial <= self.maximum,
                "0",
            )
        require("lagrangian.margin", self.margin, ">= 0", self.margin >= 0, "1")

    def limits(self, n_constraints: int) -> list[float]:
        """Return one limit per constraint.

        Raises:
            ConfigError: a list of another length was given.
        """
        return per_constraint("lagrangian.limit", self.limit, n_constraints)


@dataclass(frozen=True)
class SmoothingConfig:
    """The forests that turn single outcomes of train rows into expected ones, which agents learn from."""

    trees: int = 6
    """Trees of every fold's forest; 0: learn from single outcomes."""
    folds: int = 3
    """Folds of the train rows; what is expected of a row comes from a forest of the other folds."""
    max_features: float = 0.3
    """Share of the features that a split of a tree is chosen from."""
    min_leaf: int = 20
    """Rows that a leaf holds at least, or a 200th of the forest's where that is fewer; more of them average away more
    noise, and more detail."""
    max_rows: int = 50_000
    """Train rows that the forest is fitted on, and the policy learns from, at most; a random sample of more."""

    def __post_init__(self) -> None:
        require_kinds("smoothing.", self)
        require("smoothing.trees", self.trees, "a whole number >= 0", self.trees >= 0, "6")
        require("smoothing.folds", self.folds, "a whole number >= 2", self.folds >= 2, "3")
        require(
            "smoothing.max_features",
            self.max_features,
            "above 0 and at most 1",
            0 < self.max_features <= 1,
            "0.3",
        )
        for name in ("min_leaf", "max_rows"):
            value = getattr(self, name)
            example = str(getattr(SmoothingConfig, name))
            require(f"smoothing.{name}", value, "a whole number of at least 1", value >= 1, example)


@dataclass(frozen=True)
class ExactConfig:
    """The exact agent: both outcomes are known, so the gradient of the expected reward needs no sampled action."""

    hidden: tuple[int, ...] = (128,)
    """Widths of the policy's hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Between the layers."""
    learning_rate: float = 3e-3
    """Step size of Adam at the start; it falls to 0 linearly."""
    batch_size: int = 500
    """Rows of one gradient step."""
    steps: int = 1000
    """Gradient steps."""
    entropy_coefficient: float = 0.1
    """Weight of the entropy bonus at first; it falls to 0 linearly. Without it early mistakes become certainties."""
    weight_decay: float = 3.0
    """Decay of the weights per step, as a share of the step size."""
    averaging: float = 0.99
    """Weight of the past in the average of the weights over steps, which is what ships; 0: the last ones."""
    judgements: int = 50
    """How often the policy is judged on the validation rows, and the multiplier moved, in equal distances; a policy of
    the second half ships."""

    def __post_init__(self) -> None:
        require_kinds("exact.", self)
        for name in ("batch_size", "steps", "judgements"):
            value = getattr(self, name)
            example = str(getattr(ExactConfig, name))
            require(f"exact.{name}", value, "a whole number of at least 1", value >= 1, example)
        for name in ("entropy_coefficient", "weight_decay"):
            require(f"exact.{name}", getattr(self, name), ">= 0", getattr(self, name) >= 0, "0.01")
        require("exact.learning_rate", self.learning_rate, "> 0", self.learning_rate > 0, "0.003")
        for width in self.hidden:
            require("exact.hidden", width, "a list of widths of at least 1", width >= 1, "[128]")
        require_activation("exact", self.activation)
        require("exact.averaging", self.averaging, "at least 0 and below 1", 0 <= self.averaging < 1, "0.99")


@dataclass(frozen=True)
class CurriculumConfig:
    """What moves linearly while PPO begins: alpha to `reward.alpha`, token cap and audio share to the table's."""

    steps: int = 20_000
    """Steps until alpha, cap and share are final, counted from the first step of the run; 0: final from the start."""
    initial: float = 0.0
    """Alpha at the first step."""
    cap_initial: int | None = 4
    """Audio tokens that an action may use at the first step, where a table has several budgets; larger ones are carried
    out as the largest within the cap. null: no cap."""
    audio_share_initial: float | None = None
    """Share of audio questions, which belong to no retention set, at the first step; null: the final one."""
    audio_share_final: float | None = None
    """Share of audio questions at the end, e.g. 0.35 where a table holds very few or very many; null: the table's."""

    def __post_init__(self) -> None:
        require_kinds("curriculum.", self)
        require("curriculum.steps", self.steps, "a whole number >= 0", self.steps >= 0, "20000")
        allowed = f"between 0 and {LARGEST_PRICE:g}"
        require("curriculum.initial", self.initial, allowed, 0 <= self.initial <= LARGEST_PRICE, "0")
        if (cap := self.cap_initial) is not None:
            require("curriculum.cap_initial", cap, "a whole number of at least 1, or null", cap >= 1, "4")
        for name in ("audio_share_initial", "audio_share_final"):
            if (share := getattr(self, name)) is not None:
                require(f"curriculum.{name}", share, "between 0 and 1, or null", 0 <= share <= 1, "0.35")

    def alpha(self, step: int, final: float) -> float:
        """Return alpha after `step` environment steps of the run."""
        return self._on_the_way(step, self.initial, final)

    def cap(self, step: int, largest: int) -> int | None:
        """Return the audio tokens allowed after `step` steps, where the largest budget is `largest`; None: all."""
        if self.cap_initial is None or step >= self.steps or self.cap_initial >= largest:
            return None
        return int(self._on_the_way(step, self.cap_initial, largest))

    def audio_share(self, step: int, natural: float) -> float | None:
        """Return the share of audio questions after `step` steps, where the table's is `natural`; None: the table's."""
        if step >= self.steps or self.audio_share_initial is None:
            return self.audio_share_final
        final = natural if self.audio_share_final is None else self.audio_share_final
        return self._on_the_way(step, self.audio_share_initial, final)

    @property
    def shares(self) -> bool:
        """Whether the share of audio questions is ever another than the table's."""
        return self.audio_share_initial is not None or self.audio_share_final is not None

    def _on_the_way(self, step: int, initial: float, final: float) -> float:
        return final if step >= self.steps else initial + (final - initial) * step / self.steps


@dataclass(frozen=True)
class CertifyConfig:
    """The promise that `certify` makes about a policy, tested on the calibration split."""

    method: Literal["harm", "usage", "drop"] = "harm"
    """What the limit holds for: questions harmed; questions with audio, which needs no labels; or the net drop."""
    delta: float = 0.05
    """Probability with which a certificate may be wrong; 0.05: it holds with 95 % confidence."""
    limit: float | tuple[float, ...] | None = None
    """Largest rate allowed on retention questions, one number or one per set; null: lagrangian.limit."""
    grid: int = 1000
    """Thresholds that are tried at most; they are laid by the validation rows."""
    seed: int = 0
    """Of the draw of one question per group."""

    def __post_init__(self) -> None:
        methods = ("harm", "usage", "drop")
        if self.method not in methods:
            raise ConfigError(f"certify.method must be one of {', '.join(methods)}, got {self.method!r}; use harm.")
        if self.limit is not None:
            require_limits("certify.limit", self.limit, "a number >= 0, a list of them, or null")
        require_kinds("certify.", self)
        require("certify.delta", self.delta, "between 0 and 1, neither included", 0 < self.delta < 1, "0.05")
        require("certify.grid", self.grid, "a whole number of at least 1", self.grid >= 1, "1000")
        require("certify.seed", self.seed, "a whole number >= 0", self.seed >= 0, "0")

    def limits(self, n_sets: int, lagrangian: LagrangianConfig) -> list[float]:
        """Return one limit per retention set.

        Raises:
            ConfigError: a list of another length was given.
        """
        if self.limit is None:
            return lagrangian.limits(n_sets)
        return per_constraint("certify.limit", self.limit, n_sets)


@dataclass(frozen=True)
class DistillConfig:
    """A student of one hidden layer learns what a policy does; it is asked on train rows and on mixtures of two."""

    hidden: int = 32
    """Width of the student's hidden layer."""
    steps: int = 3000
    """Gradient steps."""
    batch_size: int = 500
    """Questions of one gradient step."""
    learning_rate: float = 3e-3
    """Step size of Adam at the start; it falls to 0 along a cosine."""
    mix: float = 1.0
    """How much of another train row is mixed into a row at most; 0: nothing, 1: equal parts."""
    onnx: bool = True
    """Whether the student is also written as gate.onnx; needs the extra [export]."""

    def __post_init__(self) -> None:
        require_kinds("distill.", self)
        for name in ("hidden", "steps", "batch_size"):
            value = getattr(self, name)
            example = str(getattr(DistillConfig, name))
            require(f"distill.{name}", value, "a whole number of at least 1", value >= 1, example)
        require("distill.learning_rate", self.learning_rate, "> 0", self.learning_rate > 0, "0.003")
        require("distill.mix", self.mix, "between 0 and 1", 0 <= self.mix <= 1, "1")


@dataclass(frozen=True)
class AgentConfig:
    """Everything that makes one agent."""

    agent: Literal["ppo", "exact"] = "ppo"
    """Who learns."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    exact: ExactConfig = field(default_factory=ExactConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
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
            require(name, value, "a whole number of at least 1", value >= 1, str(getattr(AgentConfig, name)))
