"""Spaces of gymnasium as plain values: a space goes to JSON and arrays and comes back equal, without a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from supervised.errors import ConfigError


def describe_space(space: spaces.Space[Any], name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the JSON of a space, and its bounds as arrays under names that begin with `name`.

    Raises:
        ConfigError: the space is none that the agent can work on.
    """
    if isinstance(space, spaces.Box):
        description = {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype)}
        return description, {f"{name}.low": space.low, f"{name}.high": space.high}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}, {}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}, {}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}, {}
    if isinstance(space, spaces.Dict):
        parts: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for key, part in space.spaces.items():
            parts[key], of_part = describe_space(part, f"{name}.{key}")
            arrays |= of_part
        return {"kind": "Dict", "parts": parts}, arrays
    raise ConfigError(
        f"A space must be Box, Discrete, MultiDiscrete, MultiBinary or a Dict of them, got {space}; "
        f"wrap the environment."
    )


def restore_space(description: Mapping[str, Any], name: str, arrays: Mapping[str, np.ndarray]) -> spaces.Space[Any]:
    """Return the space that `describe_space` described.

    Raises:
        KeyError: something is missing, or the kind is unknown.
    """
    kind = description["kind"]
    if kind == "Box":
        dtype = np.dtype(description["dtype"])
        return spaces.Box(arrays[f"{name}.low"], arrays[f"{name}.high"], tuple(description["shape"]), dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(description["n"], start=description["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(description["nvec"], start=description["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(description["n"])
    if kind == "Dict":
        parts = {key: restore_space(part, f"{name}.{key}", arrays) for key, part in description["parts"].items()}
        return spaces.Dict(parts)
    raise KeyError(f"kind {kind}")
