"""Where an environment stands: JSON and arrays come out of it, and bring another one of its kind to the same place.

The environment says what it knows through `get_state()` (JSON, its generator included) and `set_state(state)`: either
the `VecEnv` itself, whose `set_state` returns the observations shown, or each of the environments inside one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from supervised.errors import CheckpointError

STATELESS = (VecCheckNan, VecMonitor, VecTransposeImage)  # what VecMonitor counts is only logged


def get_state(env: VecEnv | None, observations: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the state as JSON, and arrays: running means, and the observations shown if `set_state` cannot give them.

    Args:
        env: of the agent.
        observations: shown at present, (N, ...) or a Dict of them.

    Raises:
        CheckpointError: the environment cannot tell all of its state, or shows nothing yet.
    """
    if observations is None:
        raise CheckpointError(
            "There is nothing to go on from before the first observation; write checkpoints from a callback's "
            "_on_rollout_start, or after learn()."
        )
    inner, normalize = _unwrap(env)
    arrays: dict[str, np.ndarray] = {}
    if hasattr(inner, "get_state"):
        state: dict[str, Any] = {"whole": inner.get_state()}
    else:
        state = {"each": inner.env_method("get_state")}
        if any(inner.env_is_wrapped(TimeLimit)):
            state["elapsed"] = inner.get_attr("_elapsed_steps")
    if inner is not env or "each" in state:
        parts = observations if isinstance(observations, dict) else {"": observations}
        arrays |= {f"observation.{name}": np.array(part) for name, part in parts.items()}
    if normalize is not None:
        for name, running in _running(normalize).items():
            arrays |= {f"mean.{name}": running.mean, f"var.{name}": running.var}
            arrays[f"count.{name}"] = np.asarray(running.count, dtype=np.float64)
    return state, arrays


def set_state(env: VecEnv | None, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """Go on exactly where `get_state` was called; returns the observations shown then.

    Raises:
        CheckpointError: the environment cannot take a state, or is of another number of copies.
    """
    inner, normalize = _unwrap(env)
    if "whole" in state:
        shown = inner.set_state(state["whole"])
    else:
        if len(state["each"]) != inner.num_envs:
            raise CheckpointError(
                f"The checkpoint is of {len(state['each'])} environments, here are {inner.num_envs}; "
                f"resume with the settings of the run."
            )
        inner.reset()  # wrappers refuse a step before; the state replaces whatever this draws
        for i, of_one in enumerate(state["each"]):
            inner.env_method("set_state", of_one, indices=i)
        for i, steps in enumerate(state.get("elapsed", [])):
            inner.env_method("set_wrapper_attr", "_elapsed_steps", steps, indices=i)
    for name, running in (_running(normalize) if normalize is not None else {}).items():
        running.mean, running.var = np.array(arrays[f"mean.{name}"]), np.array(arrays[f"var.{name}"])
        running.count = float(arrays[f"count.{name}"])
    stored = {name.removeprefix("observation."): np.array(a) for name, a in arrays.items() if "observation." in name}
    if not stored:
        return shown
    return stored[""] if stored.keys() == {""} else stored


def _unwrap(env: Any) -> tuple[Any, VecNormalize | None]:
    """Return the environment inside stable-baselines3's wrappers, and the one wrapper that keeps something."""
    inner, normalize = env, None
    while isinstance(inner, VecEnvWrapper):
        if isinstance(inner, VecNormalize):
            normalize = inner
        elif not isinstance(inner, STATELESS):
            raise CheckpointError(
                f"{type(inner).__name__} keeps a state that a checkpoint does not hold; "
                f"use VecNormalize, VecMonitor, VecCheckNan or VecTransposeImage, or train without checkpoints."
            )
        inner = inner.venv
    whole = hasattr(inner, "get_state") and hasattr(inner, "set_state")
    if not whole and not (isinstance(inner, VecEnv) and inner.has_attr("get_state") and inner.has_attr("set_state")):
        raise CheckpointError(
            f"{type(inner).__name__} has no get_state() and set_state(), nor have the environments in it, so its run "
            f"cannot be resumed exactly; give them both, or train without checkpoints."
        )
    return inner, normalize


def _running(normalize: VecNormalize) -> dict[str, RunningMeanStd]:
    if not normalize.norm_obs:
        return {}
    return dict(normalize.obs_rms) if isinstance(normalize.obs_rms, dict) else {"": normalize.obs_rms}
