"""Where figures go beside `metrics.jsonl`: to TensorBoard, to Weights & Biases, or nowhere else.

Whoever tracks gets the same scalars under the same names and steps; `metrics.jsonl` stays the record that counts.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from supervised.errors import ConfigError
from supervised.files import write_text

PROJECT = "safe"
"""Of Weights & Biases, unless WANDB_PROJECT names another."""


class Tracker(Protocol):
    """Takes scalars by step."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the scalars of one step."""

    def close(self) -> None:
        """Finish what was begun."""


def require_tracker(kind: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        ConfigError: says how to install it.
    """
    if kind == "wandb":
        try:
            version("wandb")  # not an import: a folder of that name in the working directory is no package
        except PackageNotFoundError as error:
            raise ConfigError(
                "tracker wandb needs the package wandb, which is not installed; pip install 'safe-rl-audio[wandb]', "
                "or give --tracker tensorboard."
            ) from error


def open_tracker(kind: str, folder: Path, part: str = "", purge_step: int | None = None) -> Tracker:
    """Return the tracker of one part of a run.

    Args:
        kind: "none", "tensorboard" or "wandb".
        folder: of the run; what the tracker keeps goes into a folder of its name.
        part: what of the run reports, such as "seed-0".
        purge_step: what was tracked about this step and later ones no longer counts; the run goes on from there.

    Raises:
        ConfigError: its package is not installed.
        OSError: the folder cannot be written to.
    """
    require_tracker(kind)
    if kind == "wandb":
        return WandbWriter(folder / "wandb" / part, "/".join(filter(None, (folder.name, part))))
    if kind == "tensorboard":
        from supervised.events import EventWriter

        return EventWriter(folder / "tensorboard" / part, purge_step)
    return _Nowhere()


class WandbWriter:
    """A run of Weights & Biases; WANDB_MODE, WANDB_PROJECT and its other variables count (WANDB_MODE=offline: no net).

    Args:
        folder: keeps its files and its name over there, so that a run that goes on goes on there too.
        name: how it is shown.
    """

    def __init__(self, folder: Path, name: str) -> None:
        import wandb

        identity = folder / "id"
        if not identity.is_file():
            write_text(identity, uuid.uuid4().hex)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identity.read_text(encoding="utf-8").strip(),
            name=name,
            dir=str(folder),
            resume="allow",
            reinit="create_new",  # a run has several parts, each of them one over there
            settings=wandb.Settings(console="off", silent=True),
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log the scalars of one step; steps that were logged before a run went on are kept as they were."""
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class _Nowhere:
    """Tracks nothing."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
