"""What an agent has learned and how far it is: an agent gives JSON and tensors, and takes them back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.multiplier import LagrangeMultiplier


class Agent(Protocol):
    """The parts of `PPOLagrangian` that change while it learns."""

    policy: Any
    multiplier: LagrangeMultiplier
    hold_multiplier: bool
    num_timesteps: int
    _n_updates: int
    _current_progress_remaining: float


def progress_of(agent: Agent) -> dict[str, Any]:
    """Return the counters and the multiplier as JSON."""
    return {
        "num_timesteps": agent.num_timesteps,
        "updates": agent._n_updates,
        "progress_remaining": agent._current_progress_remaining,
        "hold_multiplier": agent.hold_multiplier,
        "multiplier": agent.multiplier.state_dict(),
    }


def set_progress(agent: Agent, progress: Mapping[str, Any]) -> None:
    """Take over what `progress_of` returned."""
    agent.multiplier.load_state_dict(progress["multiplier"])
    agent.num_timesteps, agent._n_updates = progress["num_timesteps"], progress["updates"]
    agent._current_progress_remaining = progress["progress_remaining"]
    agent.hold_multiplier = progress["hold_multiplier"]


def network_tensors(policy: ActorCriticPolicy) -> dict[str, Tensor]:
    """Return weights and optimiser state under `policy.` and `optimizer.`; what has several names, under the first."""
    weights = policy.state_dict()
    tensors = {f"policy.{name}": weights[name] for name, first in _first_names(weights).items() if name == first}
    for index, slots in policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": tensor for slot, tensor in slots.items()}
    return tensors


def network_parameters(policy: ActorCriticPolicy, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return what `network_tensors` gave in the form of stable-baselines3's `get_parameters`."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under("optimizer.", tensors).items():
        index, slot = name.split(".")
        slots.setdefault(int(index), {})[slot] = tensor
    groups = policy.optimizer.state_dict()["param_groups"]  # the rate is set anew before every update
    weights = under("policy.", tensors)
    weights |= {name: weights[first] for name, first in _first_names(policy.state_dict()).items() if first in weights}
    return {"policy": weights, "policy.optimizer": {"state": slots, "param_groups": groups}}


def _first_names(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the first name of every tensor, by each of its names: critics share the policy's features extractor."""
    first: dict[tuple[int, torch.Size], str] = {}
    return {name: first.setdefault((tensor.data_ptr(), tensor.shape), name) for name, tensor in weights.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
