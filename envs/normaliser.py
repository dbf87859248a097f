"""Normalisation of observations: (x - mean) / std of the train split, clipped to +-10; stored with the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.outcomes import TableSplit
from supervised.errors import CheckpointError

CLIP = 10.0
_ROWS_AT_ONCE = 4096
_MOST_ROWS, _BLOCK = 262_144, 256
"""Rows that are measured at most, in evenly spread blocks; the mean of so many is right to a 500th of a deviation."""
_SMALLEST_STD = 1e-6


class ObservationNormaliser:
    """Per-dimension shift and scale of every feature; what goes out is float32 within +-10 and never NaN."""

    def __init__(self, mean: Mapping[str, np.ndarray], std: Mapping[str, np.ndarray]) -> None:
        if mean.keys() != std.keys() or any(mean[name].shape != std[name].shape for name in mean):
            raise CheckpointError("the normaliser's mean and std do not fit each other; save the policy again.")
        if not all(np.isfinite(mean[name]).all() and np.all(std[name] > 0) for name in mean):
            raise CheckpointError("the normaliser needs finite means and positive deviations; save the policy again.")
        self.mean = {name: np.asarray(value, dtype=np.float32) for name, value in mean.items()}
        self.std = {name: np.asarray(value, dtype=np.float32) for name, value in std.items()}

    @classmethod
    def fit(cls, split: TableSplit) -> ObservationNormaliser:
        """Measure mean and deviation of every feature that the table has; a constant dimension becomes 0.

        Args:
            split: the train rows; of more than 262,144 as many are measured, spread evenly.
        """
        mean, std, measured = {}, {}, _measured(len(split))
        for name, column in split.features.items():
            if not column.shape[1]:
                continue
            shift = column[:1].astype(np.float64)  # sums of squares around a value of the data lose no digits
            total = np.zeros(column.shape[1])
            squares = np.zeros(column.shape[1])
            for first in range(0, len(measured), _ROWS_AT_ONCE):
                rows = column[measured[first : first + _ROWS_AT_ONCE]] - shift  # float64 [m, D]
                total += rows.sum(axis=0)
                squares += np.einsum("nd,nd->d", rows, rows)
            average = total / len(measured)
            deviation = np.sqrt(np.maximum(squares / len(measured) - np.square(average), 0.0))
            mean[name] = average + shift[0]
            std[name] = np.where(deviation > _SMALLEST_STD, deviation, 1.0)
        return cls(mean, std)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every feature that goes in and out."""
        return {name: len(value) for name, value in self.mean.items()}

    def __call__(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Normalise features float32 [..., D]; the arrays that come out are fresh."""
        normalised = {}
        for name, mean in self.mean.items():
            values = np.asarray(observation[name] - mean, dtype=np.float32)
            values /= self.std[name]
            normalised[name] = np.clip(values, -CLIP, CLIP, out=values)
        return normalised

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint stores as safetensors: `mean.<feature>` and `std.<feature>`."""
        return {
            f"{kind}.{name}": value
            for kind, values in (("mean", self.mean), ("std", self.std))
            for name, value in values.items()
        }

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint stores as JSON."""
        return {"features": self.widths, "clip": CLIP}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> ObservationNormaliser:
        """Restore a normaliser from `tensors()` and `describe()`.

        Raises:
            CheckpointError: a tensor is missing or of another shape than described.
        """
        widths = description.get("features")
        if not isinstance(widths, Mapping) or description.get("clip") != CLIP:
            raise CheckpointError(
                f"the normaliser's description {dict(description)} is damaged; save the policy again."
            )
        for name, width in widths.items():
            for kind in ("mean", "std"):
                found = tensors.get(f"{kind}.{name}")
                if found is None or found.shape != (width,):
                    shape = None if found is None else list(found.shape)
                    raise CheckpointError(
                        f"the normaliser's {kind}.{name} has shape {shape}, allowed is [{width}]; save it again."
                    )
        return cls(
            {name: tensors[f"mean.{name}"] for name in widths}, {name: tensors[f"std.{name}"] for name in widths}
        )


def _measured(rows: int) -> np.ndarray:
    """Return the rows to measure, int64 [at most _MOST_ROWS], ascending."""
    if rows <= _MOST_ROWS:
        return np.arange(rows)
    blocks = np.linspace(0, rows - _BLOCK, _MOST_ROWS // _BLOCK).astype(np.int64)
    return (blocks[:, None] + np.arange(_BLOCK)).ravel()
