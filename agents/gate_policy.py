"""The policy as it ships: raw features of one or n questions go in, probabilities and actions come out; NumPy only.

A folder of `policy.safetensors` and `policy.json`: normaliser and layers, nothing of the training, no pickle. Trained
policies and distilled students share it. Nothing that is imported here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from envs.actions import Action
from envs.normaliser import CLIP, ObservationNormaliser
from supervised.errors import CheckpointError, ConfigError
from supervised.files import sha256_file, write_json, write_tensors

FORMAT, VERSION = "safe-rl-policy", 1
ACTIVATIONS = ("tanh", "relu")
TENSORS, DESCRIPTION = "policy.safetensors", "policy.json"
_ROWS_AT_ONCE = 1024  # their features and hidden layers stay in the processor's cache

Features = Mapping[str, np.ndarray] | np.ndarray
"""One array [n, D] per feature, or all features side by side, [n, sum of D]; without the n for a single question."""


class GatePolicy:
    """Normaliser and multi-layer perceptron.

    Every method takes n questions or a single one; what comes out for a single one lacks the first axis. A question
    with a NaN among its features has NaN probabilities and the action SKIP.

    Args:
        normaliser: of the train split; its features, side by side in its order, are the network's input.
        layers: (weight [out, in], bias [out]) from input to logits, taken as float32.
        actions: names of the actions, in the order of the logits.
        activation: between the layers, tanh or relu.

    Raises:
        CheckpointError: the layers do not lead from the features to the actions.
    """

    def __init__(
        self,
        normaliser: ObservationNormaliser,
        layers: Sequence[tuple[Any, Any]],
        actions: tuple[str, ...],
        activation: str = "tanh",
    ) -> None:
        if activation not in ACTIVATIONS:
            raise CheckpointError(
                f"The policy's activation is {activation!r}, allowed are {', '.join(ACTIVATIONS)}; save it again."
            )
        self.normaliser, self.actions, self.activation = normaliser, actions, activation
        self.layers = [(np.asarray(weight, np.float32), np.asarray(bias, np.float32)) for weight, bias in layers]
        widths = [sum(normaliser.widths.values()), *(len(bias) for _, bias in self.layers)]
        shapes = [weight.shape for weight, _ in self.layers]
        if shapes != list(zip(widths[1:], widths[:-1], strict=True)) or widths[-1] != len(actions):
            raise CheckpointError(
                f"The policy's layers {shapes} do not lead from {widths[0]} features to {len(actions)} actions; "
                f"save the policy again."
            )
        # Prepared once, because a single decision takes some microseconds in all.
        self._widths = normaliser.widths
        self._mean, self._std = (
            np.concatenate([values[name] for name in self._widths]) for values in (normaliser.mean, normaliser.std)
        )
        self._steps = [(np.ascontiguousarray(weight.T), bias) for weight, bias in self.layers]

    @property
    def width(self) -> int:
        """Length of all features side by side."""
        return len(self._mean)

    def logits(self, features: Features) -> np.ndarray:
        """Return the logits, float32 [n, A].

        Raises:
            ConfigError: a feature is missing or of another width; the message says what the policy needs.
        """
        rows = features if isinstance(features, np.ndarray) else self._side_by_side(features)
        if rows.ndim not in (1, 2) or rows.shape[-1] != len(self._mean):
            raise ConfigError(
                f"The policy needs {len(self._mean)} features a question, got an array of shape {rows.shape}; "
                f"give them side by side in this order: {self._widths}."
            )
        if rows.ndim == 1 or len(rows) <= _ROWS_AT_ONCE:
            return self._forward(rows)
        pieces = range(0, len(rows), _ROWS_AT_ONCE)
        return np.concatenate([self._forward(rows[first : first + _ROWS_AT_ONCE]) for first in pieces])

    def probabilities(self, features: Features) -> np.ndarray:
        """Return the probability of every action, float32 [n, A]."""
        values = self.logits(features)
        values -= values.max(axis=-1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=-1, keepdims=True)
        return values

    def use_probability(self, features: Features) -> np.ndarray:
        """Return the probability of any action that pays for audio, float32 [n]."""
        return np.asarray(1.0 - self.probabilities(features)[..., Action.SKIP])

    def decide(self, features: Features) -> np.ndarray:
        """Return the most probable action, int64 [n]; a tie goes to the cheaper action."""
        return np.asarray(self.logits(features).argmax(axis=-1))

    def _side_by_side(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            parts = [features[name] for name in self._widths]
            joined = np.concatenate(parts, axis=-1)
        except (KeyError, ValueError, TypeError):
            if not isinstance(features, Mapping):
                raise ConfigError(
                    f"The policy takes an array, or a mapping with one per feature, got {type(features).__name__}; "
                    f"give np.asarray(...)."
                ) from None
            parts, joined = [], np.empty(0)
        if [np.shape(part)[-1] for part in parts] == list(self._widths.values()):
            return joined
        given = {name: list(np.shape(value)) for name, value in features.items()}
        wrong = [name for name, width in self._widths.items() if given.get(name, [])[-1:] != [width]]
        if wrong:
            told = f"{wrong[0]} with {self._widths[wrong[0]]} columns, got {given}; "
            raise ConfigError(f"The policy needs {told}give the features it was trained on: {self._widths}.")
        raise ConfigError(f"The policy needs as many rows of every feature, got {given}; give the same questions.")

    def _forward(self, rows: np.ndarray) -> np.ndarray:
        """Return fresh logits [n, A]; the first three lines are `ObservationNormaliser`, bit for bit."""
        with np.errstate(over="ignore"):  # what overflows is clipped
            hidden = np.subtract(rows, self._mean, dtype=np.float32)  # [n, D]
            hidden /= self._std
        hidden.clip(-CLIP, CLIP, out=hidden)
        for weight, bias in self._steps[:-1]:
            hidden = hidden.dot(weight)  # [n, H]
            hidden += bias
            if self.activation == "relu":
                np.maximum(hidden, 0.0, out=hidden)
            else:
                np.tanh(hidden, out=hidden)
        weight, bias = self._steps[-1]
        return np.asarray(hidden.dot(weight) + bias)  # [n, A]


def save_policy(directory: Path | str, policy: GatePolicy, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a policy; `provenance` is kept with it as JSON (seed, alpha, table, how it was selected)."""
    directory = Path(directory)
    tensors = {f"normaliser.{name}": value for name, value in policy.normaliser.tensors().items()}
    for i, (weight, bias) in enumerate(policy.layers):
        tensors |= {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
    write_tensors(directory / TENSORS, tensors)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "actions": list(policy.actions),
        "observation": policy.normaliser.widths,
        "normaliser": policy.normaliser.describe(),
        "hidden": [len(bias) for _, bias in policy.layers[:-1]],
        "activation": policy.activation,
        "sha256": sha256_file(directory / TENSORS),
        "provenance": dict(provenance or {}),
    }
    write_json(directory / DESCRIPTION, description)


def load_policy(directory: Path | str) -> GatePolicy:
    """Read what `save_policy` wrote.

    Raises:
        CheckpointError: a file is missing, damaged or of another version.
    """
    directory = Path(directory)
    try:
        description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        if description["format"] != FORMAT or description["version"] != VERSION:
            raise CheckpointError(
                f"{directory / DESCRIPTION} is {description['format']} version {description['version']}, this program "
                f"reads {FORMAT} version {VERSION}; save the policy again."
            )
        if sha256_file(directory / TENSORS) != description["sha256"]:
            raise CheckpointError(f"{directory / TENSORS} has a wrong checksum; restore the file or train again.")
        tensors = load_file(directory / TENSORS)
        stored = {name.removeprefix("normaliser."): value for name, value in tensors.items() if name[0] == "n"}
        normaliser = ObservationNormaliser.from_tensors(stored, dict(description["normaliser"]))
        dict(description["provenance"])  # whoever loads a policy reads it next
        layers = [
            (tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"]) for i in range(len(description["hidden"]) + 1)
        ]
        return GatePolicy(normaliser, layers, tuple(description["actions"]), description["activation"])
    except FileNotFoundError as error:
        raise CheckpointError(f"No policy at {directory}: {error.filename} is missing; train one first.") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"The policy at {directory} is damaged ({type(error).__name__}: {error}); restore it or train again."
        ) from error


def provenance_of(directory: Path | str) -> dict[str, Any]:
    """Return what `save_policy` kept with a policy.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = Path(directory) / DESCRIPTION
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["provenance"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not tell where its policy comes from ({type(error).__name__}); restore it or train again."
        ) from error
