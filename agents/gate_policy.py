"""The policy as it ships: raw features of n questions go in, probabilities [n, A] and actions [n] come out.

A folder of `policy.safetensors` and `policy.json`: normaliser and layers, nothing of the training, no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn

from agents.cost_policy import CostActorCriticPolicy
from envs.actions import Action
from envs.normaliser import ObservationNormaliser
from supervised.errors import CheckpointError, ConfigError
from supervised.files import sha256_file, write_json, write_tensors

FORMAT, VERSION = "safe-rl-policy", 1
TENSORS, DESCRIPTION = "policy.safetensors", "policy.json"


class GatePolicy:
    """Normaliser and multi-layer perceptron with tanh between the layers, in evaluation mode.

    Args:
        normaliser: of the train split; its features, side by side in its order, are the network's input.
        layers: (weight [out, in], bias [out]) from input to logits.
        actions: names of the actions, in the order of the logits.
    """

    def __init__(
        self, normaliser: ObservationNormaliser, layers: list[tuple[Tensor, Tensor]], actions: tuple[str, ...]
    ) -> None:
        self.normaliser, self.layers, self.actions = normaliser, layers, actions
        widths = [sum(normaliser.widths.values()), *(len(bias) for _, bias in layers)]
        shapes = [tuple(weight.shape) for weight, _ in layers]
        if shapes != list(zip(widths[1:], widths[:-1], strict=True)) or widths[-1] != len(actions):
            raise CheckpointError(
                f"The policy's layers {shapes} do not lead from {widths[0]} features to {len(actions)} actions; "
                f"save the policy again."
            )

    @classmethod
    def from_network(
        cls, network: CostActorCriticPolicy, normaliser: ObservationNormaliser, actions: tuple[str, ...]
    ) -> GatePolicy:
        """Take the deciding half out of an actor-critic that was trained on flat observations."""
        modules = [*network.mlp_extractor.policy_net, network.action_net]
        layers = [
            (module.weight.detach().cpu().clone(), module.bias.detach().cpu().clone())
            for module in modules
            if isinstance(module, nn.Linear)
        ]
        return cls(normaliser, layers, actions)

    def logits(self, features: Mapping[str, np.ndarray]) -> Tensor:
        """Return the logits (n, A) for raw features, one array (n, D) per feature."""
        for name, width in self.normaliser.widths.items():
            if name not in features or np.shape(features[name])[1:] != (width,):
                given = {key: list(np.shape(value)) for key, value in features.items()}
                raise ConfigError(
                    f"The policy needs {name} with {width} columns, got {given}; "
                    f"give the features it was trained on: {self.normaliser.widths}."
                )
        hidden = th.from_numpy(np.concatenate(list(self.normaliser(features).values()), axis=1))  # (n, D)
        for weight, bias in self.layers[:-1]:
            hidden = th.tanh(nn.functional.linear(hidden, weight, bias))  # (n, H)
        return nn.functional.linear(hidden, *self.layers[-1])  # (n, A)

    def probabilities(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of every action, float32 [n, A]."""
        return np.asarray(th.softmax(self.logits(features), dim=1).numpy())

    def use_probability(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of any action that pays for audio, float32 [n]."""
        return np.asarray(1.0 - self.probabilities(features)[:, Action.SKIP])

    def decide(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the most probable action, int64 [n]; a tie goes to the cheaper action."""
        return np.asarray(self.logits(features).numpy().argmax(axis=1))


def save_policy(directory: Path | str, policy: GatePolicy, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a policy; `provenance` is kept with it as JSON (seed, alpha, table, how it was selected)."""
    directory = Path(directory)
    tensors = {f"normaliser.{name}": value for name, value in policy.normaliser.tensors().items()}
    for i, (weight, bias) in enumerate(policy.layers):
        tensors |= {f"layers.{i}.weight": weight.numpy(), f"layers.{i}.bias": bias.numpy()}
    write_tensors(directory / TENSORS, tensors)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "actions": list(policy.actions),
        "observation": policy.normaliser.widths,
        "normaliser": policy.normaliser.describe(),
        "hidden": [len(bias) for _, bias in policy.layers[:-1]],
        "activation": "tanh",
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
        normaliser = ObservationNormaliser.from_tensors(stored, description["normaliser"])
        layers = [
            (th.from_numpy(tensors[f"layers.{i}.weight"]), th.from_numpy(tensors[f"layers.{i}.bias"]))
            for i in range(len(description["hidden"]) + 1)
        ]
        return GatePolicy(normaliser, layers, tuple(description["actions"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"No policy at {directory}: {error.filename} is missing; train one first.") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise CheckpointError(
            f"The policy at {directory} is damaged ({type(error).__name__}: {error}); restore it or train again."
        ) from error
