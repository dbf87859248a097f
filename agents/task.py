"""What every agent is given: rows to learn from and held-out rows go in; limits, prices and a judge come out."""

from __future__ import annotations

import numpy as np

from agents.config import AgentConfig
from agents.dual import solve_multipliers
from agents.outcome_model import OutcomeModel, SmoothedBatches, learnable
from agents.retention import RetentionBuffer
from agents.selection import FeasibleBest
from envs.batch import OutcomeBatches
from envs.outcomes import TableSplit
from supervised.errors import TableError

EXPECTED_ROWS = 2
"""Train rows that a policy's cost is measured on for every held-out one, at most: more would outvote what happened."""
MEASURED_ROWS = 36_000
"""Rows that a policy's cost is measured on, at most, after every rollout: held-out ones first."""
HELD_OUT_ROWS = 20_000
"""Held-out rows that are used, at most, so that neither time nor memory grow with the split; a fixed sample of more."""


class Task:
    """One agent's problem.

    What a policy costs is measured on held-out rows, as they happened, together with the rows that it learns from, as
    they are expected to be. Held-out rows alone are too few: on 5,000 retention questions a drop of 0.3 points has a
    standard error of about as much. What really happened on the train rows is no evidence: forests and policy have
    seen it. What is expected of them is told by forests that have not, and is free of most of the noise. The error of
    such a mean is still that of the tosses it was averaged from, so the margin is counted in what happened. Where the
    agent learns from single outcomes the held-out rows stand alone.

    A policy ships with its most probable actions, and it is their cost that the multipliers follow.

    Args:
        rows: to learn from.
        held_out: rows that a policy is chosen by.
        config: of the agent.
        seed: of network, sampling and order of rows.

    Raises:
        ConfigError: the limits do not fit the table's retention sets.
    """

    def __init__(self, rows: OutcomeBatches, held_out: OutcomeBatches, config: AgentConfig, seed: int) -> None:
        self.rows, self.config, self.seed = rows, config, seed
        everything, lagrangian = np.arange(len(held_out)), config.lagrangian
        observations, cost = held_out.flat(everything), held_out.cost
        measured, paid, happened, reward, expected = observations, cost, cost, held_out.reward, cost
        if isinstance(rows, SmoothedBatches):
            most = min(EXPECTED_ROWS * len(held_out), max(MEASURED_ROWS - len(held_out), 0))
            known = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
            model = SmoothedBatches(held_out.split, config.reward, rows.model, rows.normaliser, held_out)
            pairs = zip(model.matrices(everything), rows.matrices(known), strict=True)
            reward, expected = (np.concatenate(pair) for pair in pairs)
            measured = np.concatenate([observations, rows.flat(known)])
            # The mean over all these rows is the drop over all their questions, whichever split holds more of a set.
            shares = len(held_out) * held_out.problem.rates, len(known) * rows.problem.rates  # [K] each
            pooled = np.maximum(sum(shares), 1) / (len(held_out) + len(known))
            weights = held_out.problem.rates / pooled, rows.problem.rates / pooled
            paid = _weighed((cost, expected[len(held_out) :]), weights)
            happened = _weighed((cost, rows.cost[known]), weights)
        self.retention = RetentionBuffer(measured, paid, lagrangian.margin, happened**2, decided=True)
        self.limits = np.asarray(lagrangian.limits(self.retention.n_constraints))  # [K]
        judged = self.retention
        if lagrangian.maximum == 0:  # the constraints are off, for the choice of a policy too
            judged = RetentionBuffer(measured, paid[:, :0])
        self.selection = FeasibleBest(observations, held_out.reward, judged, self.limits[: judged.n_constraints])
        if lagrangian.initial is None:  # multipliers [K] at the start
            self.multipliers = solve_multipliers(
                reward, expected, self.limits, lagrangian.maximum, paid, lagrangian.margin
            )
        else:
            self.multipliers = np.full(len(self.limits), lagrangian.initial)
        self.reachable: float | None = None  # utility on the held-out rows of what the outcome model says is best
        if isinstance(rows, SmoothedBatches):
            worth = reward - np.einsum("nka,k->na", expected, self.multipliers)
            best = worth[: len(held_out)].argmax(axis=1)
            self.reachable = float(held_out.reward[everything, best].mean(dtype=np.float64))


def task_of(
    train: TableSplit, validation: TableSplit, config: AgentConfig, seed: int, outcome_model: OutcomeModel | None = None
) -> Task:
    """Return the problem of one agent on two splits of a table; of a large validation split, a fixed sample.

    Args:
        train: rows to learn from; they fit the normaliser.
        validation: held-out rows, of which at most `HELD_OUT_ROWS` are used.
        config: of the agent.
        seed: of network, sampling and order of rows.
        outcome_model: fitted on `train` with this configuration's `smoothing`; None: it is fitted here.

    Raises:
        ConfigError: the limits do not fit the table's retention sets.
        TableError: a constraint has train rows that no validation row measures, or the other way round.
    """
    validation = validation.sample(HELD_OUT_ROWS)
    if config.lagrangian.maximum > 0:
        _refuse_unmeasured(train, validation)
    rows = learnable(train, config.reward, config.smoothing, outcome_model)
    return Task(rows, OutcomeBatches(validation, config.reward, rows.normaliser), config, seed)


def _refuse_unmeasured(train: TableSplit, validation: TableSplit) -> None:
    """Refuse a constraint that only counts as met as no validation row measures it, or that no train row teaches."""
    seen, measured = (set(np.unique(rows.retention_set).tolist()) for rows in (train, validation))
    untaught = (measured - seen, validation, f"no {train.name} row to learn from")
    unmeasured = (seen - measured, train, f"no {validation.name} row that measures it")
    for sets, there, lack in (untaught, unmeasured):
        names = [name for k, name in enumerate(train.table.retention_sets) if k in sets]
        if names:
            raise TableError(
                f"The drop on {', '.join(names)} cannot be held below lagrangian.limit: the table in "
                f"{train.table.directory} has {there.name} rows of it, but {lack}; move some there, or switch the "
                f"constraints off with --lagrangian.maximum 0."
            )


def _weighed(costs: tuple[np.ndarray, ...], weights: tuple[np.ndarray, ...]) -> np.ndarray:
    """Put the costs [n, K, A] of two splits below each other, each times the weight [K] of its questions."""
    pairs = zip(costs, weights, strict=True)
    return np.concatenate([cost * weight[:, None].astype(np.float32) for cost, weight in pairs])
