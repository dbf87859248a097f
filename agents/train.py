"""Training of one agent: the train and validation rows of a table go in, a policy that meets the limit comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure

from agents.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from agents.config import AgentConfig
from agents.curriculum import AlphaCurriculum
from agents.gate_policy import GatePolicy
from agents.ppo_lagrangian import PPOLagrangian
from agents.retention import RetentionBuffer
from agents.selection import FeasibleBest, Judgement
from envs.batch import OutcomeBatches
from envs.outcomes import TableSplit
from envs.sb3 import AudioGateVecEnv
from supervised.errors import TableError

Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainedAgent:
    """What one run gave."""

    policy: GatePolicy
    """The selected policy."""
    selected: Judgement
    """How the selected policy does on the validation rows."""
    history: list[dict[str, float]]
    """One entry per rollout: step, alpha, and what was logged under rollout/, lagrange/, train/ and validation/."""
    saturated: bool
    """Whether the multiplier ended at its maximum with the cost above the limit."""

    @property
    def warning(self) -> str | None:
        """One line for the user if the limit was not met; None if all is well."""
        if self.selected.feasible:
            return None
        cause = "the multiplier stands at its maximum" if self.saturated else "no policy of the run met it"
        return (
            f"The limit on the cost is not met on the validation rows (worst excess "
            f"{self.selected.excess:+.4f}): {cause}; the policy with the lowest cost was kept. "
            f"Raise lagrangian.limit or lagrangian.maximum, or train longer."
        )


def train_agent(
    train: TableSplit,
    validation: TableSplit,
    config: AgentConfig,
    seed: int,
    checkpoints: Path | None = None,
    resume: bool = False,
    log_dir: Path | None = None,
    progress: Progress | None = None,
) -> TrainedAgent:
    """Train one seed.

    Args:
        train: rows that the policy learns from; they fit the normaliser.
        validation: held-out rows: the retention buffer, and the choice of the policy that ships.
        config: of the agent.
        seed: of network, sampling and order of rows.
        checkpoints: folder of this seed's checkpoint; None: none is written.
        resume: go on from the checkpoint there, bit for bit; without one the run starts at 0.
        log_dir: folder of this seed's TensorBoard events; None: none.
        progress: called after every rollout and its update, with the step and the latest entry of the history.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another run.
        ConfigError: the limits do not fit the table's retention sets.
        TableError: the validation rows cannot measure a constraint.
    """
    if config.lagrangian.maximum > 0:
        _refuse_unmeasured(train, validation)
    ppo = config.ppo
    environment = AudioGateVecEnv(train, ppo.num_envs, reward=config.reward, seed=seed, flat=True)
    held_out = OutcomeBatches(validation, config.reward, environment.batches.normaliser)
    observations = np.concatenate(list(held_out.observe(np.arange(len(held_out))).values()), axis=1)
    model = PPOLagrangian(
        "MlpPolicy",
        environment,
        ppo,
        config.lagrangian,
        retention=RetentionBuffer(observations, held_out.cost),
        seed=seed,
    )
    model.set_logger(configure(str(log_dir) if log_dir else None, ["tensorboard"] if log_dir else []))
    selection = FeasibleBest(
        observations, held_out.reward, held_out.cost, model.multiplier.limit, config.lagrangian.margin
    )
    curriculum = AlphaCurriculum(config.curriculum, config.reward.alpha)
    identity = {"config": _identity(config), "seed": seed, "table": train.table.fingerprint, "split": train.name}
    keeper = _Keeper(config, curriculum, selection, identity, checkpoints, progress)
    if resume and checkpoints is not None and has_checkpoint(checkpoints):
        extra, weights = load_checkpoint(checkpoints, model, identity)
        keeper.history = extra["history"]
        selection.load_state_dict(extra["selected"], weights)
        remaining = max(config.total_timesteps - model.num_timesteps, 0)
        model.learn(remaining, CallbackList([keeper, curriculum]), reset_num_timesteps=False)
    else:
        model.learn(config.total_timesteps, CallbackList([keeper, curriculum]))
    assert selection.best is not None  # considered at the end of training at the latest
    saturated = model.saturated
    model.policy.load_state_dict(selection.weights)
    policy = GatePolicy.from_network(model.policy, environment.batches.normaliser, train.table.actions)
    return TrainedAgent(policy, selection.best, keeper.history, saturated)


def _refuse_unmeasured(train: TableSplit, validation: TableSplit) -> None:
    """Refuse a constraint that would count as met only because no validation row measures it."""
    seen, measured = (set(np.unique(rows.retention_set).tolist()) for rows in (train, validation))
    unmeasured = [name for k, name in enumerate(train.table.retention_sets) if k in seen - measured]
    if unmeasured:
        raise TableError(
            f"The drop on {', '.join(unmeasured)} cannot be held below lagrangian.limit: the table in "
            f"{train.table.directory} has train rows of it, but no {validation.name} row that measures it; move some "
            f"there, or switch the constraints off with --lagrangian.maximum 0."
        )


class _Keeper(BaseCallback):
    """Between two rollouts: keeps the history, judges the policy, reports progress, writes checkpoints."""

    model: PPOLagrangian

    def __init__(
        self,
        config: AgentConfig,
        curriculum: AlphaCurriculum,
        selection: FeasibleBest,
        identity: dict[str, Any],
        checkpoints: Path | None,
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self.config, self.curriculum, self.selection = config, curriculum, selection
        self.identity, self.checkpoints, self.progress = identity, checkpoints, progress
        self.history: list[dict[str, float]] = []

    def _on_rollout_start(self) -> None:
        self._keep(last=False)

    def _on_training_end(self) -> None:
        self._keep(last=True)

    def _on_step(self) -> bool:
        return True

    def _keep(self, last: bool) -> None:
        step = self.model.num_timesteps
        if step == 0 or (self.history and self.history[-1]["step"] == step):
            return  # nothing has happened since: the run begins, or was resumed here
        entry = {"step": float(step), "alpha": self.curriculum.alpha, **self.model.metrics}
        if self.curriculum.finished or last:
            judgement = self.selection.consider(step, self.model.policy)
            entry |= {
                "validation/utility": judgement.utility,
                "validation/excess": judgement.excess,
                "validation/bound": judgement.bound,
                "validation/usage": judgement.usage,
            }
        self.history.append(entry)
        if self.checkpoints is not None and (last or len(self.history) % self.config.checkpoint_every == 0):
            best, weights = self.selection.state_dict()
            extra = {"history": self.history, "selected": best}
            save_checkpoint(self.checkpoints, self.model, self.identity, extra, weights)
        if self.progress is not None:
            self.progress(step, entry)


def _identity(config: AgentConfig) -> dict[str, Any]:
    """Return the settings that change what is learned."""
    return {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}
