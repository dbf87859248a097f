"""Training of one agent: the train and validation rows of a table go in, a policy that meets the limit comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.config import AgentConfig
from agents.divergence import check_figures, run_of
from agents.gate_policy import GatePolicy
from agents.layers import Layers
from agents.outcome_model import OutcomeModel
from agents.selection import Judgement
from agents.task import task_of
from envs.outcomes import TableSplit

Progress = Callable[[int, dict[str, float]], None]
Measure = Callable[[np.ndarray], dict[str, float]]
"""Takes the actions int64 [n] on the validation rows that are used, returns figures of them."""


SURE = 20.0
"""Logit of skip in a policy that never uses audio."""
COLLAPSED = 0.002
"""Usage below this share, or above the rest, is a policy that no longer looks at the question."""
WORTH_TELLING = 0.005
"""Utility that a collapse must cost, by what the outcome model says, to be told."""


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
    reachable: float | None = None
    """Utility on the validation rows of taking what the outcome model says is best; None: there is no model."""
    fallback: Judgement | None = None
    """What was learned, where it earned less on the validation rows than never using audio, which ships instead."""

    @property
    def warning(self) -> str | None:
        """One line for the user if the limit was not met or audio is not decided on; None if all is well."""
        return " ".join(filter(None, [self._limit_warning(), self._worse_warning(), self._collapse_warning()])) or None

    def _limit_warning(self) -> str | None:
        learned = self.fallback or self.selected
        if learned.feasible:
            return None
        cause = "the multiplier stands at its maximum" if self.saturated else "no policy of the run met it"
        return (
            f"The limit on the cost is not met on the rows that measure it (worst excess "
            f"{learned.excess:+.4f}): {cause}; {self._kept()}. "
            f"Raise lagrangian.limit or lagrangian.maximum, or train longer."
        )

    def _worse_warning(self) -> str | None:
        if self.fallback is None or not self.fallback.feasible:  # told with the limit
            return None
        kept = self._kept()
        return f"{kept[0].upper()}{kept[1:]}. Lower reward.alpha or reward.gamma, or train longer."

    def _kept(self) -> str:
        if self.fallback is None:
            return "the policy with the lowest cost was kept"
        return (
            f"the learned policy earns less on the validation rows than never using audio "
            f"({self.fallback.utility:.4f} against {self.selected.utility:.4f}), so never was kept"
        )

    def _collapse_warning(self) -> str | None:
        """Tell of a policy that always or never uses audio, unless the outcome model knows nothing better."""
        usage = self.selected.usage
        if self.fallback is not None:  # never was chosen, and is told
            return None
        if COLLAPSED < usage < 1 - COLLAPSED:
            return None
        if self.reachable is not None and self.reachable <= self.selected.utility + WORTH_TELLING:
            return None
        what, remedy = ("never", "lower reward.alpha") if usage < 0.5 else ("always", "raise reward.alpha")
        return (
            f"The policy collapsed: it {what} uses audio (usage {100 * usage:.1f} % of the validation rows). Raise "
            f"ppo.entropy_coefficient or exact.entropy_coefficient, lengthen curriculum.steps, or {remedy}."
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
    measure: Measure | None = None,
    outcome_model: OutcomeModel | None = None,
) -> TrainedAgent:
    """Train one seed.

    Args:
        train: rows that the policy learns from; they fit the normaliser.
        validation: held-out rows: what a policy really costs and earns, and the choice of the one that ships; of more
            than `agents.task.HELD_OUT_ROWS`, the same sample in every run.
        config: of the agent.
        seed: of network, sampling and order of rows.
        checkpoints: folder of this seed's checkpoint; None: none is written. The exact agent has none.
        resume: go on from the checkpoint there, bit for bit; without one the run starts at 0.
        log_dir: folder of this seed's TensorBoard events; None: none.
        progress: called after every rollout and its update, with the step and the latest entry of the history.
        measure: further figures of every policy that is judged; they stand in the history under their own names.
        outcome_model: fitted on `train` with this configuration's `smoothing`, for many agents on one table; None: it
            is fitted here.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another run.
        ConfigError: the limits do not fit the table's retention sets.
        Diverged: training left the finite numbers.
        TableError: a constraint has train rows that no validation row measures, or the other way round.
    """
    task = task_of(train, validation, config, seed, outcome_model)
    history: list[dict[str, float]] = []

    def keep(entry: dict[str, float]) -> None:
        further = measure(task.selection.actions) if measure is not None and "validation/utility" in entry else {}
        entry = entry | further
        check_figures(entry)
        history.append(entry)
        if progress is not None:
            progress(int(entry["step"]), entry)

    with run_of(seed, config.agent):
        if config.agent == "exact":
            from agents.exact import train_exact

            layers, saturated = train_exact(task, keep)
        else:
            from agents.train_ppo import train_ppo

            layers, saturated = train_ppo(task, history, keep, checkpoints, resume, log_dir)
    assert task.selection.best is not None  # considered at the end of training at the latest
    activation = config.exact.activation if config.agent == "exact" else config.ppo.activation
    selected, fallback = task.selection.best, None
    never = task.selection.never(selected.step)
    if never.utility > selected.utility:  # it is within every limit
        selected, fallback, layers = never, selected, _never(layers)
    policy = GatePolicy(task.rows.normaliser, layers, train.table.actions, activation)
    return TrainedAgent(policy, selected, history, saturated, task.reachable, fallback)


def _never(layers: Layers) -> Layers:
    """Return the layers with an output that does not look at the question, and is sure of the first action, skip."""
    weight, bias = layers[-1]
    return [*layers[:-1], (np.zeros_like(weight), np.where(np.arange(len(bias)) == 0, SURE, 0).astype(bias.dtype))]
