"""Figures of one update: what every minibatch recorded goes in, names and means for the log come out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch as th
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from agents.buffer import Batch

RECORDED = ("policy_gradient_loss", "value_loss", "cost_value_loss", "entropy", "approx_kl", "clip_fraction", "loss")
"""What a minibatch records, in this order."""


def update_metrics(records: Sequence[Tensor], rollout: Batch) -> dict[str, float]:
    """Return the figures under `train/`.

    Args:
        records: one tensor (7,) per minibatch, see `RECORDED`; the loss is that of the last one, the rest are means.
        rollout: the finished rollout.
    """
    metrics: dict[str, float] = {}
    if records:
        means = th.stack(list(records)).mean(dim=0).tolist()
        metrics = {f"train/{name}": mean for name, mean in zip(RECORDED, means, strict=True)}
        metrics["train/loss"] = float(records[-1][-1])
    predicted, returns = (rollout.returns - rollout.advantages).cpu().numpy(), rollout.returns.cpu().numpy()
    explained = explained_variance(predicted, returns)
    if np.isfinite(explained):  # constant returns have no variance to explain
        metrics["train/explained_variance"] = float(explained)
    return metrics


def per_constraint(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the values [K] under `name`, numbered where there are several."""
    if len(values) == 1:
        return {name: float(values[0])}
    return {f"{name}_{k}": float(value) for k, value in enumerate(values)}
