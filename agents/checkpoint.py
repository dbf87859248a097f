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
from agents.storage.agent_state import network_parameters, network_tensors, progress_of, set_progress, under
from agents.storage.environment_state import get_state, set_state
from supervised.errors import CheckpointError, SafeError
from supervised.files import sha256_file, write_json, write_tensors

FORMAT, VERSION, STATE = "safe-rl-checkpoint", 2, "checkpoint.json"


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
        model: its environment tells its state, see `agents.storage.environment_state`.
        identity: JSON that says which run this is; `load_checkpoint` compares it.
        extra: JSON of the caller.
        extra_tensors: tensors of the caller.

    Raises:
        CheckpointError: the environment cannot tell its state, or not as JSON.
    """
    directory = Path(directory)
    tensors = network_tensors(model.policy)
    tensors |= {f"extra.{name}": tensor for name, tensor in (extra_tensors or {}).items()}
    tensors["random.torch"] = th.get_rng_state()
    environment, shown = get_state(model.env, model._last_obs)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    algorithm, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, next_gauss = random.getstate()
    arrays |= {
        "random.numpy": np.asarray(keys),
        "random.python": np.asarray(words, dtype=np.int64),
        "episodes": model.episodes.running,
        "starts": np.asarray(model._last_episode_starts),
        **{f"environment.{name}": array for name, array in shown.items()},
    }
    name = f"step-{model.num_timesteps:012d}.safetensors"
    write_tensors(directory / name, arrays)
    state = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": name,
        "sha256": sha256_file(directory / name),
        "identity": dict(identity),
        **progress_of(model),
        "random_numpy": [algorithm, position, has_gauss, gauss],
        "random_python": [version, next_gauss],
        "environment": environment,
        "extra": extra,
    }
    try:
        write_json(directory / STATE, state)
    except TypeError as error:
        raise CheckpointError(
            f"The environment's get_state() must return plain JSON values ({error}); use numbers, texts and lists."
        ) from error
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
        return state["extra"], under("extra.", tensors)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"No checkpoint at {directory}: {error.filename} is missing; start the run without resume."
        ) from error
    except (
        KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        if isinstance(error, SafeError):
            raise
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
    model.set_parameters(network_parameters(model.policy, tensors))
    set_progress(model, state)
    model.episodes.running = tensors["episodes"].numpy()
    model._last_episode_starts = tensors["starts"].numpy()
    shown = {name: tensor.numpy() for name, tensor in under("environment.", tensors).items()}
    model._last_obs = set_state(model.env, state["environment"], shown)


def _restore_generators(state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Set the generators last: making the model has drawn from them."""
    algorithm, position, has_gauss, gauss = state["random_numpy"]
    np.random.set_state((algorithm, tensors["random.numpy"].numpy(), position, has_gauss, gauss))
    version, next_gauss = state["random_python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), next_gauss))
    th.set_rng_state(tensors["random.torch"])
