"""What values a configuration may hold: a value and its name go in; one that is not allowed ends in one line."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from supervised.errors import ConfigError


def require(name: str, value: float, allowed: str, fine: bool, example: str) -> None:
    """Raise the one-line error of a value that is out of range."""
    if not (fine and math.isfinite(value)):
        raise ConfigError(f"{name} must be {allowed}, got {value}; use e.g. {example}.")


def require_activation(section: str, activation: str) -> None:
    """Raise the one-line error of an activation that there is not."""
    if activation not in ("relu", "tanh"):
        raise ConfigError(f"{section}.activation must be relu or tanh, got {activation!r}; use e.g. relu.")


def per_constraint(name: str, limit: float | tuple[float, ...], n_constraints: int) -> list[float]:
    """Return one limit per constraint, or raise the one-line error of a list of another length."""
    if not isinstance(limit, tuple):
        return [float(limit)] * n_constraints
    if len(limit) != n_constraints:
        raise ConfigError(
            f"{name} must be one number or {n_constraints} (one per constraint), "
            f"got {len(limit)}: {list(limit)}; use e.g. 0.003."
        )
    return [float(value) for value in limit]


def require_limits(name: str, limit: Any, allowed: str) -> None:
    """Raise the one-line error of what is neither one limit nor a list of some."""
    limits = limit if isinstance(limit, list | tuple) else (limit,)
    if not limits:
        raise ConfigError(f"{name} must be a number or a list of at least one, got []; use e.g. 0.003.")
    for value in limits:
        if not isinstance(value, Real):
            raise ConfigError(f"{name} must be {allowed}, got {limit!r}; use e.g. 0.003.")
        require(name, number := float(value), allowed, number >= 0, "0.003")


def require_kinds(section: str, config: Any) -> None:
    """Raise the one-line error of a field that is not of its type; make lists tuples and NumPy's numbers plain ones.

    So comparisons with fields do not fail, and a configuration can be hashed and written as JSON.
    """
    for name, kind in get_type_hints(type(config)).items():
        if not _fits(value := getattr(config, name), kind):
            usual = getattr(type(config), name)
            raise ConfigError(f"{section}{name} must be {_told(kind)}, got {value!r}; use e.g. {usual}.")
        object.__setattr__(config, name, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, bool | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of a field's type; NumPy's numbers are, and a list stands for a tuple."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(each, parts[0]) for each in value)
    if get_origin(kind) is Literal:
        return True  # each of these has a check of its own
    if parts:
        return any(_fits(value, part) for part in parts)
    numbers = {int: Integral, float: Real}
    return isinstance(value, numbers.get(kind, kind)) and (kind is bool or not isinstance(value, bool))


def _told(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return f"a list, each {_told(parts[0])}"
    if parts:
        return " or ".join(map(_told, parts))
    return {int: "a whole number", float: "a number", bool: "True or False"}.get(kind, "None")
