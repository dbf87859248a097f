"""Training with PPO: a task goes in, the layers of the selected policy come out; interrupted runs go on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger, configure

from agents.averaging import WeightAverage
from agents.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from agents.config import AgentConfig
from agents.cost_policy import CostActorCriticPolicy
from agents.curriculum import Curriculum
from agents.exact import settled_multipliers
from agents.layers import Layers
from agents.outcome_model import SmoothedBatches
from agents.ppo_lagrangian import PPOLagrangian
from agents.storage.agent_state import under
from agents.task import Task
from envs.sb3 import AudioGateVecEnv

JUDGED_EVERY = 4
"""Rollouts between two judgements: from one to the next the average of the weights hardly moves."""

Keep = Callable[[dict[str, float]], None]


def train_ppo(
    task: Task,
    history: list[dict[str, float]],
    keep: Keep,
    checkpoints: Path | None = None,
    resume: bool = False,
    log_dir: Path | None = None,
) -> tuple[Layers, bool]:
    """Train one seed.

    Args:
        task: what to learn.
        history: one entry per rollout; those of an interrupted run are put into it.
        keep: takes the entry of every rollout, and appends it.
        checkpoints: folder of this seed's checkpoint; None: none is written.
        resume: go on from the checkpoint there.
        log_dir: folder of this seed's TensorBoard events; None: none.

    Returns:
        Weight [out, in] and bias [out] of every layer, and whether the multiplier ended at its maximum in vain.
    """
    config = task.config
    environment = AudioGateVecEnv(batches=task.rows, num_envs=config.ppo.num_envs, seed=task.seed, flat=True)
    model = PPOLagrangian(
        "MlpPolicy", environment, config.ppo, config.lagrangian, retention=task.retention, seed=task.seed
    )
    saved = checkpoints if resume and checkpoints is not None and has_checkpoint(checkpoints) else None
    if saved is None:
        model.multiplier.start_at(_start(task))  # at the final alpha, which the curriculum is about to take back
    # Without a folder `configure` would leave one of its own among the system's temporary files.
    model.set_logger(configure(str(log_dir), ["tensorboard"]) if log_dir else Logger(None, []))
    curriculum = Curriculum(config.curriculum, config.reward.alpha)
    curriculum.set_on(environment, 0)  # before the first questions are drawn
    split = task.rows.split
    identity = {"config": _identity(config), "seed": task.seed, "table": split.table.fingerprint, "split": split.name}
    keeper = _Keeper(task, model, curriculum, identity, checkpoints, history, keep)
    remaining = config.total_timesteps
    if saved is not None:
        keeper.restore(saved)
        remaining = max(remaining - model.num_timesteps, 0)
    model.learn(remaining, CallbackList([keeper, curriculum]), reset_num_timesteps=model.num_timesteps == 0)
    model.policy.load_state_dict(task.selection.weights)
    return model.policy.policy_layers(), model.saturated


def _start(task: Task) -> np.ndarray:
    """Return the multipliers [K] to start at: once PPO is sure of its actions, a price that rises moves it no more."""
    lagrangian = task.config.lagrangian
    if lagrangian.initial is not None or lagrangian.maximum == 0 or not isinstance(task.rows, SmoothedBatches):
        return task.multipliers
    return settled_multipliers(task) if len(task.limits) else task.multipliers


class _Keeper(BaseCallback):
    """Between two rollouts: keeps the history, averages and judges the policy, writes checkpoints."""

    model: PPOLagrangian

    def __init__(
        self,
        task: Task,
        model: PPOLagrangian,
        curriculum: Curriculum,
        identity: dict[str, Any],
        checkpoints: Path | None,
        history: list[dict[str, float]],
        keep: Keep,
    ) -> None:
        super().__init__()
        self.model, self.selection, self.curriculum = model, task.selection, curriculum
        self.identity, self.checkpoints, self.every = identity, checkpoints, task.config.checkpoint_every
        self.history, self.keep = history, keep
        self.average = WeightAverage[CostActorCriticPolicy](model.policy, task.config.ppo.averaging)

    def restore(self, checkpoints: Path) -> None:
        """Go on where the checkpoint was written."""
        extra, tensors = load_checkpoint(checkpoints, self.model, self.identity)
        self.history.extend(extra["history"])
        self.selection.load_state_dict(extra["selected"], under("selected.", tensors))
        self.average.load_state_dict(under("average.", tensors))

    def _on_rollout_start(self) -> None:
        self._between(last=False)

    def _on_training_end(self) -> None:
        self._between(last=True)

    def _on_step(self) -> bool:
        return True

    def _between(self, last: bool) -> None:
        step = self.model.num_timesteps
        if step == 0 or (self.history and self.history[-1]["step"] == step):
            return  # nothing has happened since: the run begins, or was resumed here
        self.average.update(self.model.policy)
        entry = {"step": float(step), "alpha": self.curriculum.alpha, **self.model.metrics}
        if last or (self.curriculum.finished and len(self.history) % JUDGED_EVERY == 0):
            entry |= self.selection.consider(step, self.average.network).figures()
        self.keep(entry)
        if self.checkpoints is not None and (last or len(self.history) % self.every == 0):
            best, weights = self.selection.state_dict()
            tensors = {f"selected.{name}": tensor for name, tensor in weights.items()}
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
            extra = {"history": self.history, "selected": best}
            save_checkpoint(self.checkpoints, self.model, self.identity, extra, tensors)


def _identity(config: AgentConfig) -> dict[str, Any]:
    """Return the settings that change what is learned."""
    return {name: value for name, value in asdict(config).items() if name not in ("checkpoint_every", "exact")}
