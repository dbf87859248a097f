"""The space of a study: ranges of the configuration become distributions, what a trial drew becomes a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from safe_rl.config import RunConfig
from safe_rl.tuning.config import CHOICES, FLOATS, INTEGERS
from supervised.errors import ConfigError

Settings = dict[str, Any]
"""Dotted key of the run -> value, as it is stored: a list of widths is a text such as `64 64`."""


def distributions(config: RunConfig) -> dict[str, BaseDistribution]:
    """Return the distribution of every setting that varies, by its key in the run."""
    space, found = config.tune.space, dict[str, BaseDistribution]()
    for name, key in FLOATS.items():
        if ends := getattr(space, name):
            found[key.format(agent=config.agent)] = FloatDistribution(ends[0], ends[1], log=name in space.logarithmic)
    for name, key in INTEGERS.items():
        if ends := getattr(space, name):
            found[key] = IntDistribution(ends[0], ends[1])
    for name, key in CHOICES.items():
        if choices := getattr(space, name):
            found[key.format(agent=config.agent)] = CategoricalDistribution([_stored(choice) for choice in choices])
    return {key: kind for key, kind in found.items() if config.agent == "ppo" or not key.startswith("ppo.")}


def draw(trial: Trial, space: Mapping[str, BaseDistribution]) -> Settings:
    """Let a trial take a value for every setting."""
    settings: Settings = {}
    for key, kind in space.items():
        if isinstance(kind, FloatDistribution):
            settings[key] = trial.suggest_float(key, kind.low, kind.high, log=kind.log)
        elif isinstance(kind, IntDistribution):
            settings[key] = trial.suggest_int(key, kind.low, kind.high)
        elif isinstance(kind, CategoricalDistribution):
            settings[key] = trial.suggest_categorical(key, kind.choices)
    return settings


def own_settings(config: RunConfig, space: Mapping[str, BaseDistribution]) -> Settings:
    """Return what stands for the run's own settings in the space: a value outside of it is moved to the nearest end.

    A choice that the space does not offer is replaced by the first one that it does, and null by the lowest value.
    """
    settings: Settings = {}
    for key, kind in space.items():
        value = _stored(_get(config, key))
        if isinstance(kind, CategoricalDistribution):
            settings[key] = value if value in kind.choices else kind.choices[0]
        elif isinstance(kind, FloatDistribution | IntDistribution):
            settings[key] = kind.low if value is None else min(max(value, kind.low), kind.high)
    return settings


def configured(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the run with these settings.

    Raises:
        ConfigError: a value is not allowed, or contradicts another.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = _read(value)
    changed: dict[str, Any] = {
        section: replace(getattr(config, section), **values) for section, values in sections.items()
    }
    return replace(config, **changed)


def check_space(config: RunConfig) -> None:
    """Refuse, before anything long begins, a space with a value that the run would refuse in some trial.

    Raises:
        ConfigError: names the setting, as the run would.
    """
    space = distributions(config)
    if not space:
        raise ConfigError(f"tune.space varies nothing that agent {config.agent} reads; give e.g. a learning_rate.")
    multipliers = ("lagrangian.initial", "lagrangian.maximum")
    inside = {key: value for key, value in own_settings(config, space).items() if key in multipliers}
    ends = {
        key: kind.choices if isinstance(kind, CategoricalDistribution) else (kind.low, kind.high)
        for key, kind in space.items()
        if isinstance(kind, CategoricalDistribution | FloatDistribution | IntDistribution)
    }
    # A multiplier may not start above its maximum: the highest start meets the lowest maximum.
    corners = [
        {key: ends[key][end] for key, end in (("lagrangian.initial", 1), ("lagrangian.maximum", 0)) if key in ends}
    ]
    corners += [{key: value} for key, values in ends.items() for value in values]
    for corner in corners:
        try:
            configured(config, inside | corner)
        except ConfigError as error:
            options = " and ".join(f"--tune.space.{_field(config, key)}" for key in corner)
            told = str(error).partition(";")[0]  # its remedy would be about the run's own value
            raise ConfigError(
                f"tune.space leads to a run that is not allowed: {told}; give other values with {options}, or null to "
                f"keep the run's own."
            ) from error


def _field(config: RunConfig, key: str) -> str:
    """Return the name in `tune.space` of a key of the run."""
    return next(
        name for name, run_key in (FLOATS | INTEGERS | CHOICES).items() if run_key.format(agent=config.agent) == key
    )


def _get(config: RunConfig, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _stored(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _read(value: Any) -> Any:
    return tuple(int(width) for width in value.split()) if isinstance(value, str) else value
