"""What makes two runs of Stage A the same run: settings, model and data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from supervised.differences import differences
from supervised.errors import CheckpointError
from supervised.safe_model import SafeModel
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.examples import Examples

MAY_CHANGE = ("checkpoint_every", "accumulate", "checkpointing")
"""Settings that change neither what is learned nor in which order; parts of a batch add up to it but for rounding."""


def identity(model: SafeModel, config: StageAConfig) -> dict[str, Any]:
    """Return settings and model as plain JSON values; the data follow when they have been read."""
    settings = {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE}
    fingerprint = {name: value for name, value in model.fingerprint().items() if name != "adapter"}
    return as_json({"stage_a": settings, "model": fingerprint, "data": {}})


def data_identity(**parts: Examples) -> dict[str, Any]:
    """Return what the questions of every part are."""
    return {name: {"questions": len(part), "sha256": part.sha256} for name, part in parts.items()}


def refuse_other(folder: Path, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on with another configuration, model or data than those of the run in `folder`.

    Raises:
        CheckpointError: names every difference.
    """
    changes = differences(saved, as_json(here))
    if found := [f"{name} is {now}, was {was}" for name, was, now in changes]:
        raise CheckpointError(
            f"the checkpoint in {folder} is of another run: {'; '.join(found)}; "
            "give the same values, or another folder."
        )


def as_json(value: Any) -> Any:
    """Return the value as it reads after it was written: tuples are lists."""
    return json.loads(json.dumps(value))
