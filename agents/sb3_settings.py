"""The keywords of stable-baselines3's PPO: what its users are used to give goes in, our configuration comes out.

Names and meaning are those of stable-baselines3 2.9. What a constrained agent does not have is refused by name, unless
it is given the value that switches it off.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

from agents.config import LagrangianConfig, PPOConfig
from agents.cost_policy import CostActorCriticPolicy
from supervised.errors import ConfigError

DEFAULTS = PPOConfig(
    learning_rate=3e-4,
    final_learning_rate=3e-4,
    num_envs=1,
    n_steps=2048,
    batch_size=64,
    n_epochs=10,
    entropy_coefficient=0.0,
    hidden=(64, 64),
    critic_hidden=(64, 64),
    activation="tanh",
    averaging=0.0,
)
"""stable-baselines3's own; they hold where no configuration is given."""


class Keywords(TypedDict, total=False):
    """Settings of an agent by the names of stable-baselines3's PPO."""

    learning_rate: float
    n_steps: int
    batch_size: int
    n_epochs: int
    gamma: float
    gae_lambda: float
    clip_range: float
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    target_kl: float | None
    clip_range_vf: None
    use_sde: Literal[False]
    sde_sample_freq: Literal[-1]
    rollout_buffer_class: None
    rollout_buffer_kwargs: None
    stats_window_size: Literal[100]


AFTER_LOADING = {
    "seed": "call model.set_random_seed(seed)",
    "tensorboard_log": "set model.tensorboard_log",
    "verbose": "set model.verbose",
    "lagrangian": "call model.set_limits(limits)",
}
"""Argument of the constructor that `load` does not take -> what does the same."""
FIELDS = {"ent_coef": "entropy_coefficient", "vf_coef": "value_coefficient"}
"""Keyword -> field of `PPOConfig`, where they differ."""
SCHEDULES = {
    "learning_rate": "give config=PPOConfig(learning_rate=3e-4, final_learning_rate=0.0), which falls linearly",
    "clip_range": "give a number, e.g. 0.2",
}
"""Keyword that may be a function of the progress in stable-baselines3 -> what to do."""
KINDS: dict[type, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
}
ABSENT: dict[str, tuple[object, str]] = {
    "clip_range_vf": (None, "values are not clipped"),
    "use_sde": (False, "there is no state-dependent exploration"),
    "sde_sample_freq": (-1, "there is no state-dependent exploration"),
    "rollout_buffer_class": (None, "the buffer has to hold costs"),
    "rollout_buffer_kwargs": (None, "the buffer's settings are cost_gamma and cost_gae_lambda of PPOConfig"),
    "stats_window_size": (100, "episodes are averaged over every rollout"),
}
"""Keyword -> the only value it may have, and why."""
ABSENT_OF_POLICY: dict[str, tuple[object, str]] = {
    "share_features_extractor": (True, "policy and critics read the same features"),
    "use_sde": (False, "there is no state-dependent exploration"),
    "full_std": (True, "there is no state-dependent exploration"),
    "use_expln": (False, "there is no state-dependent exploration"),
    "squash_output": (False, "actions are clipped to their bounds"),
}
"""The same of `policy_kwargs`."""


def configured(config: PPOConfig | None, keywords: Mapping[str, Any], n_envs: int | None) -> PPOConfig:
    """Return the configuration with what the keywords change.

    Args:
        config: None: stable-baselines3's defaults.
        keywords: see `Keywords`.
        n_envs: copies of the environment that there are; None: not known yet.

    Raises:
        ConfigError: a keyword is unknown, absent here, or out of range; or a rollout would have a single sample.
    """
    if not isinstance(config, PPOConfig | None):
        raise ConfigError(
            f"config must be a PPOConfig, got {config!r}; give settings of stable-baselines3 by name, e.g. "
            f"learning_rate=3e-4."
        )
    changes = {FIELDS.get(name, name): _checked(name, value) for name, value in keywords.items() if name not in ABSENT}
    if "learning_rate" in changes:
        changes["final_learning_rate"] = changes["learning_rate"]  # a number is a constant rate
    _refuse_absent(keywords, ABSENT, "")
    if (config is None or changes) and n_envs is not None:
        changes["num_envs"] = n_envs
    settings = replace(config or DEFAULTS, **changes)
    if n_envs is not None and n_envs * settings.n_steps < 2:
        raise ConfigError(
            f"A rollout needs at least 2 samples, got {n_envs} environment with n_steps {settings.n_steps}; give a "
            f"larger n_steps."
        )
    return settings


def check_kinds(policy: Any, names: Iterable[str], lagrangian: Any, n_constraints: Any) -> None:
    """Refuse what the types of the constructor do not allow, and what a user of stable-baselines3 may give instead.

    Raises:
        ConfigError: `policy` has no cost critics, `lagrangian` is no configuration, or `n_constraints` no number.
    """
    if not (
        (isinstance(policy, str) and policy in names)
        or (isinstance(policy, type) and issubclass(policy, CostActorCriticPolicy))
    ):
        raise ConfigError(
            f"policy must be {', '.join(names)} or a class that derives from CostActorCriticPolicy, because it needs "
            f"cost critics, got {policy!r}; use e.g. MlpPolicy."
        )
    if not isinstance(lagrangian, LagrangianConfig | None):
        raise ConfigError(
            f"lagrangian must be a LagrangianConfig, got {lagrangian!r}; use e.g. LagrangianConfig(limit=25.0)."
        )
    whole = isinstance(n_constraints, Integral) and not isinstance(n_constraints, bool)
    if n_constraints is not None and not (whole and n_constraints >= 0):
        raise ConfigError(
            f"n_constraints must be a whole number >= 0, or None for as many as there are limits, got "
            f"{n_constraints!r}; leave it out."
        )


def check_loading(custom_objects: object, force_reset: object, keywords: Mapping[str, Any]) -> None:
    """Refuse arguments of stable-baselines3's `load` that have no meaning here.

    Raises:
        ConfigError: names the argument and what to do instead.
    """
    if custom_objects:
        raise ConfigError(
            f"PPOLagrangian.load takes custom_objects=None only, because the file holds plain values, got "
            f"{custom_objects!r}; leave it out, and give policy, policy_kwargs, retention or settings by name."
        )
    if force_reset is not True:
        raise ConfigError(
            f"PPOLagrangian.load takes force_reset=True only, because a saved agent starts new episodes, got "
            f"{force_reset!r}; leave it out, or go on within an episode with agents.checkpoint."
        )
    for name in [name for name in AFTER_LOADING if name in keywords]:
        raise ConfigError(f"PPOLagrangian.load takes no {name}; load the agent and then {AFTER_LOADING[name]}.")


def policy_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a named policy, without those that only switch off what is not there.

    Raises:
        ConfigError: something is asked for that is not there.
    """
    _refuse_absent(given, ABSENT_OF_POLICY, " in policy_kwargs")
    return {name: value for name, value in given.items() if name not in ABSENT_OF_POLICY}


def _refuse_absent(given: Mapping[str, Any], absent: Mapping[str, tuple[object, str]], where: str) -> None:
    for name in given.keys() & absent.keys():
        allowed, why = absent[name]
        if given[name] != allowed:
            raise ConfigError(
                f"PPOLagrangian takes {name}={allowed}{where} only, because {why}, got {given[name]!r}; leave it out."
            )


def _checked(name: str, value: Any) -> Any:
    """Return the value of a known keyword as a plain one; its range is checked by the configuration."""
    if name not in Keywords.__annotations__:
        near = difflib.get_close_matches(name, Keywords.__annotations__, n=1)
        told = f"did you mean {near[0]}" if near else f"it takes {', '.join(sorted(Keywords.__annotations__))}"
        raise ConfigError(f"PPOLagrangian has no setting {name}; {told}, or give it in config=PPOConfig(...).")
    if callable(value):
        remedy = SCHEDULES.get(name, "give a number")
        raise ConfigError(f"{name} must be a number, got a schedule ({value!r}); {remedy}.")
    if name == "target_kl" and value is None:
        return None
    usual: Any = 0.02 if name == "target_kl" else getattr(DEFAULTS, FIELDS.get(name, name))
    kind, allowed = KINDS[type(usual)]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} must be {allowed}, got {value!r}; use e.g. {usual}.")
    return type(usual)(value)  # of NumPy's numbers too
