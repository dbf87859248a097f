"""Checkpoints for an exact resume: a `PPOLagrangian` between two rollouts goes to disk and comes back bit for bit.

A folder of `checkpoint.json` and the safetensors file it names, no pickle. The JSON is written last, so a crash at any
moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from agents.ppo_lagrangian import PPOLagrangian
from supervised.errors import CheckpointError
from supervised.files import sha256_file, write_json, write_tensors

FORMAT, VERSION, STATE = "safe-rl-checkpoint", 1, "checkpoint.json"


def save_checkpoint(
    directory: Path | str,
    model: PPOLagrangian,
    identity: Mapping[str, Any],
    extra: Any = None,
    extra_tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write everything that the run needs to go on; call it at the start of a rollout or at the end of training.

    Args:
        directory: of the checkpoint, which holds the newest one only.
        model: its environment offers `get_state()`.
        identity: JSON that says which run this is; `load_checkpoint` compares it.
        extra: JSON of the caller.
        extra_tensors: tensors of the caller.

    Raises:
        CheckpointError: the environment cannot tell its state.
    """
    directory = Path(directory)
    tensors = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, slots in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": tensor for slot, tensor in slots.items()}
    tensors |= {f"extra.{name}": tensor for name, tensor in (extra_tensors or {}).items()}
    tensors["random.torch"] = th.get_rng_state()
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    algorithm, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, next_gauss = random.getstate()
    arrays |= {
        "random.numpy": np.asarray(keys),
        "random.python": np.asarray(words, dtype=np.int64),
        "episodes": model.episodes.running,
        "starts": np.asarray(model._last_episode_starts),
    }
    name = f"step-{model.num_timesteps:012d}.safetensors"
    write_tensors(directory / name, arrays)
    state = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": name,
        "sha256": sha256_file(directory / name),
        "identity": dict(identity),
        "num_timesteps": model.num_timesteps,
        "updates": model._n_updates,
        "progress_remaining": model._current_progress_remaining,
        "multiplier": model.multiplier.state_dict(),
        "random_numpy": [algorithm, position, has_gauss, gauss],
        "random_python": [version, next_gauss],
        "environment": _environment(model).get_state(),
        "extra": extra,
    }
    write_json(directory / STATE, state)
    for old in directory.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def has_checkpoint(directory: Path | str) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (Path(directory) / STATE).is_file()


def load_checkpoint(
    directory: Path | str, model: PPOLagrangian, identity: Mapping[str, Any]
) -> tuple[Any, dict[str, Tensor]]:
    """Bring a freshly made model, its environment and the three global generators to where the checkpoint was taken.

    Go on with `model.learn(total - model.num_timesteps, reset_num_timesteps=False)`.

    Returns:
        The caller's `extra` and `extra_tensors`.

    Raises:
        CheckpointError: there is none, it is damaged, or it belongs to another run.
    """
    directory = Path(directory)
    try:
        state = json.loads((directory / STATE).read_text(encoding="utf-8"))
        _refuse_another(directory, state, identity)
        path = directory / Path(state["tensors"]).name
        if sha256_file(path) != state["sha256"]:
            raise CheckpointError(f"{path} has a wrong checksum; delete {directory} and start the run again.")
        tensors = load_file(path)
        _restore_model(model, state, tensors)
        _restore_generators(state, tensors)
        return state["extra"], _under("extra.", tensors)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"No checkpoint at {directory}: {error.filename} is missing; start the run without resume."
        ) from error
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise CheckpointError(
            f"The checkpoint at {directory} is damaged ({type(error).__name__}: {reason}); "
            f"delete it and start the run again."
        ) from error


def _refuse_another(directory: Path, state: dict[str, Any], identity: Mapping[str, Any]) -> None:
    if state["format"] != FORMAT or state["version"] != VERSION:
        raise CheckpointError(
            f"{directory / STATE} is {state['format']} version {state['version']}, this program reads {FORMAT} version "
            f"{VERSION}; start the run again."
        )
    for name, value in json.loads(json.dumps(dict(identity))).items():
        if state["identity"].get(name) != value:
            raise CheckpointError(
                f"The checkpoint at {directory} was made with {name} {state['identity'].get(name)}, this run "
                f"has {value}; resume with the same settings, or start in another folder."
            )


def _restore_model(model: PPOLagrangian, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    model.policy.load_state_dict(_under("policy.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, slot = name.split(".")
        slots.setdefault(int(index), {})[slot] = tensor
    groups = model.policy.optimizer.state_dict()["param_groups"]  # the rate is set anew before every update
    model.policy.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    model.multiplier.load_state_dict(state["multiplier"])
    model.num_timesteps, model._n_updates = state["num_timesteps"], state["updates"]
    model._current_progress_remaining = state["progress_remaining"]
    model.episodes.running = tensors["episodes"].numpy()
    model._last_episode_starts = tensors["starts"].numpy()
    model._last_obs = _environment(model).set_state(state["environment"])


def _restore_generators(state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Set the generators last: making the model has drawn from them."""
    algorithm, position, has_gauss, gauss = state["random_numpy"]
    np.random.set_state((algorithm, tensors["random.numpy"].numpy(), position, has_gauss, gauss))
    version, next_gauss = state["random_python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), next_gauss))
    th.set_rng_state(tensors["random.torch"])


def _environment(model: PPOLagrangian) -> Any:
    environment = model.env
    if not (hasattr(environment, "get_state") and hasattr(environment, "set_state")):
        raise CheckpointError(
            f"{type(environment).__name__} has no get_state() and set_state(), so its run cannot be resumed exactly; "
            f"use AudioGateVecEnv, or train without checkpoints."
        )
    return environment


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
