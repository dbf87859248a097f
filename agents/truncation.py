"""Episodes that a time limit cut off: what the critics expect beyond goes into their last reward and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th

from agents.buffer import Step
from agents.cost_policy import CostActorCriticPolicy


def bootstrap_truncated(
    step: Step,
    dones: np.ndarray,
    infos: list[dict[str, Any]],
    policy: CostActorCriticPolicy,
    gamma: float,
    cost_gamma: float,
) -> None:
    """Add the discounted value of where an episode was cut off to its reward (N,) and costs (N, K), in place.

    Args:
        step: what the environments did; not yet in a buffer.
        dones: ends of episodes (N,).
        infos: with `TimeLimit.truncated` and `terminal_observation`, as stable-baselines3's environments give them.
        policy: its critics.
        gamma: discount of rewards.
        cost_gamma: discount of costs.
    """
    cut = [i for i in np.flatnonzero(dones).tolist() if infos[i].get("TimeLimit.truncated")]
    cut = [i for i in cut if infos[i].get("terminal_observation") is not None]
    if not cut:
        return
    ends = [infos[i]["terminal_observation"] for i in cut]
    if isinstance(ends[0], dict):
        terminal, _ = policy.obs_to_tensor({name: np.stack([end[name] for end in ends]) for name in ends[0]})
    else:
        terminal, _ = policy.obs_to_tensor(np.stack(ends))
    with th.no_grad():
        values, cost_values = policy.predict_both_values(policy.prepare(terminal))
    step.rewards[cut] += gamma * values
    step.costs[cut] += cost_gamma * cost_values
