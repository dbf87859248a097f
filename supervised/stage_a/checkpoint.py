"""Checkpoints of Stage A: a folder with `state.safetensors` (numbers) and `progress.json` (everything else).

A checkpoint is written under a temporary name, synced and renamed, and only then are older ones deleted: at any
moment there is a whole one. What is restored is restored bit for bit: adapter, optimiser moments, random states, and
where the run stood. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from supervised.errors import CheckpointError
from supervised.files import sha256_file, write_json, write_tensors
from supervised.stage_a.trained import Trained

PREFIX = "checkpoint-"
FORMAT = "safe-rl-stage-a"
VERSION = 2


@dataclass
class Progress:
    """Where a run stands between two steps."""

    step: int = 0
    """Optimiser steps done."""
    evaluated: int = 0
    """Step of the latest evaluation, 0 before the first."""
    lines: int = 0
    """Lines of `metrics.jsonl` that belong to these steps."""
    base: dict[str, float] = field(default_factory=dict)
    """The base's figures on the questions of an evaluation."""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """State of every part of the run that has a memory, by its name."""


def save_checkpoint(
    folder: Path,
    progress: Progress,
    identity: Mapping[str, Any],
    trained: Trained,
    random_state: Mapping[str, Any],
    null_space: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `folder`/checkpoint-STEP, then delete the older ones.

    Args:
        folder: the run's folder.
        progress: where the run stands.
        identity: configuration, model and data; a run only goes on with the same ones.
        trained: the values that move, with their optimiser's moments and the best state.
        random_state: from `random_states`, of the moment before the next step.
        null_space: directions that updates leave alone, if any.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; the older checkpoint is still there.
    """
    final = folder / f"{PREFIX}{progress.step:08d}"
    temporary = folder / f".{final.name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"adapter.{name}": tensor for name, tensor in trained.module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in trained.best.items()}
    tensors |= {f"null_space.{name}": tensor for name, tensor in (null_space or {}).items()}
    for name, parameter in trained.module.named_parameters():
        for key, value in trained.optimizer.state.get(parameter, {}).items():  # step, exp_avg, exp_avg_sq
            tensors[f"{key}.{name}"] = value
    tensors["random.torch"] = random_state["torch"]
    try:
        write_tensors(temporary / "state.safetensors", {k: v.detach().cpu().numpy() for k, v in tensors.items()})
        header = {"format": FORMAT, "version": VERSION, "sha256": sha256_file(temporary / "state.safetensors")}
        rest = {"python": random_state["python"], "numpy": random_state["numpy"]}
        write_json(
            temporary / "progress.json",
            header | {"progress": asdict(progress), "identity": dict(identity), "random": rest},
        )
        while final.exists():  # interrupted between a step and its evaluation, then gone on: the step is saved twice
            final = final.with_name(final.name + "b")
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder):
        if old != final:
            shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a run's folder, the latest last."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Return progress, identity, tensors and random states of a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or another version wrote it.
    """
    remedy = f"delete {path} and start again, or copy it again."
    try:
        text = json.loads((path / "progress.json").read_text(encoding="utf-8"))
        if (text["format"], text["version"]) != (FORMAT, VERSION):
            found = f"{text['format']!r} version {text['version']!r}"
            raise CheckpointError(f"{path} is {found}; this program reads {FORMAT!r} version {VERSION}; {remedy}")
        if sha256_file(path / "state.safetensors") != text["sha256"]:
            raise CheckpointError(f"{path} is damaged (the SHA-256 of its tensors differs); {remedy}")
        tensors = {name: torch.from_numpy(array) for name, array in load_file(path / "state.safetensors").items()}
        states = {"torch": tensors.pop("random.torch"), **text["random"]}
        return Progress(**text["progress"]), dict(text["identity"]), tensors, states
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is not a whole checkpoint ({type(error).__name__}: {reason}); {remedy}"
        ) from None


def restore(tensors: Mapping[str, Tensor], trained: Trained) -> dict[str, Tensor]:
    """Copy a checkpoint's tensors into what is trained, fresh so far; return those of the null space, or none.

    Raises:
        CheckpointError: names or shapes are not those of this adapter.
    """
    module = trained.module
    state = {name.removeprefix("adapter."): value for name, value in tensors.items() if name.startswith("adapter.")}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint is of another adapter ({reason}); start again.") from None
    for name, parameter in module.named_parameters():
        moments = {key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors}
        if moments:
            placed = {key: _placed(value, parameter) for key, value in moments.items()}
            trained.optimizer.state[parameter] = {"step": tensors[f"step.{name}"].clone().reshape(()), **placed}
    trained.best = {
        name: _placed(tensors[f"best.{name}"], value)
        for name, value in module.state_dict().items()
        if f"best.{name}" in tensors
    }
    prefix = "null_space."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """Return a copy with the shape and on the device of `like`: files know no 0-d tensors."""
    return value.clone().reshape(like.shape).to(like.device)


def random_states() -> dict[str, Any]:
    """Return the states of the three global generators; numpy's and Python's as plain JSON values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }


def restore_random(states: Mapping[str, Any]) -> None:
    """Set the three global generators."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
