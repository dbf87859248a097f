"""One trial: a configuration goes in, its policies are trained, what they are worth on validation rows comes out.

alpha and gamma say what a policy is taught to want, so a trial that varies them cannot be compared by its own reward.
The yardstick is the run's: its alpha, gamma and token weight, and its limit, for every trial alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agents.task import HELD_OUT_ROWS
from agents.train import Measure, Progress, TrainedAgent, train_agent
from envs.actions import Action
from envs.reward import RewardTerms
from envs.source import problem_of
from safe_rl.config import RunConfig
from safe_rl.determinism import prepare
from safe_rl.training import agent_config, outcome_model, steps_of
from safe_rl.tuning.batches import STEPS_PER_SEED
from safe_rl.tuning.config import TuneConfig

if TYPE_CHECKING:
    from agents.outcome_model import OutcomeModel
    from envs.outcomes import OutcomeTable

Report = Callable[[int, float], None]
"""Takes a step (`STEPS_PER_SEED` per policy) and what the policies so far are worth; may end the trial by raising."""
FAR = -1.0
"""What breaks a limit is reported below this, so that it never looks better than what keeps it."""


@dataclass(frozen=True)
class SeedResult:
    """The policy of one seed on the validation rows."""

    seed: int
    step: int
    """Steps after which it was selected."""
    utility: float
    """Mean reward at the run's own alpha, gamma and token weight."""
    accuracy: float
    latency_ms: float
    usage: float
    excess: float
    """Worst mean cost minus its limit."""
    bound: float
    """The same with `lagrangian.margin` standard errors added; <= 0: the policy keeps the limit."""


class Yardstick:
    """Measures decisions on the validation rows as the run itself would, whatever a trial was taught."""

    def __init__(self, table: OutcomeTable, config: RunConfig) -> None:
        self.split = table.split("validation").sample(HELD_OUT_ROWS)  # the rows that agents are judged on
        problem = problem_of(self.split)
        self.reward = RewardTerms(
            self.split.score,
            self.split.latency_ms,
            self.split.retention_set,
            problem.latency_unit_ms,
            config.reward,
            problem.action_tokens,
        ).matrix()  # [n, A]

    def __call__(self, actions: np.ndarray) -> dict[str, float]:
        """Return figures of actions int64 [n]."""
        rows = np.arange(len(actions))
        return {
            "tune/utility": float(self.reward[rows, actions].mean(dtype=np.float64)),
            "tune/accuracy": float(self.split.score[rows, actions].mean(dtype=np.float64)),
            "tune/latency_ms": float(self.split.latency_ms[rows, actions].mean(dtype=np.float64)),
            "tune/usage": float(np.mean(actions != Action.SKIP)),
        }


class Bench:
    """What all trials of a study share: rows, yardstick, and the model of the train rows' outcomes.

    Args:
        table: train rows to learn from, validation rows to judge by; no other row is read.
        config: of the run.
    """

    def __init__(self, table: OutcomeTable, config: RunConfig) -> None:
        self.table, self.config = table, config
        self.yardstick = Yardstick(table, config)
        self.model = outcome_model(table, config)

    def train(self, config: RunConfig, report: Report) -> Iterator[tuple[TrainedAgent, SeedResult]]:
        """Train the policies of a trial one after the other and yield each with its figures.

        Args:
            config: of the trial.
            report: called about `STEPS_PER_SEED` times per policy.

        Raises:
            Diverged: training left the finite numbers.
        """
        tune, yardstick, before = self.config.tune, self.yardstick, list[float]()
        for seed in range(tune.seeds_per_trial):
            watch = _Watch(steps_of(config), seed, before, tune, report)
            agent = train_one(self.table, config, seed, self.model, watch, yardstick)
            figures = yardstick(agent.policy.decide(yardstick.split.observation(slice(None))))
            result = SeedResult(
                seed=seed,
                step=agent.selected.step,
                utility=figures["tune/utility"],
                accuracy=figures["tune/accuracy"],
                latency_ms=figures["tune/latency_ms"],
                usage=figures["tune/usage"],
                excess=agent.selected.excess,
                bound=agent.selected.bound,
            )
            yield agent, result
            before.append(worth(figures, result.bound, tune))


def train_one(
    table: OutcomeTable,
    config: RunConfig,
    seed: int,
    model: OutcomeModel | None,
    progress: Progress,
    measure: Measure,
) -> TrainedAgent:
    """Train the policy of one seed, exactly as `train_policy` would."""
    prepare(seed, threads=1)
    return train_agent(
        table.split("train"),
        table.split("validation"),
        agent_config(config),
        seed,
        progress=progress,
        measure=measure,
        outcome_model=model,
    )


def objectives(results: list[SeedResult], tune: TuneConfig) -> list[float]:
    """Return the values of a trial: means over its policies."""
    if tune.mode == "pareto":
        return [mean([result.accuracy for result in results]), mean([result.latency_ms for result in results])]
    return [mean([getattr(result, tune.objective) for result in results])]


def limits_broken(results: list[SeedResult], tune: TuneConfig) -> list[float]:
    """Return by how much the worst policy breaks the limit on the cost, and the mean that on latency; <= 0: not.

    Every policy of a trial must keep the limit on the cost, because any of them may ship.
    """
    return [
        max(result.bound for result in results),
        _too_slow(mean([result.latency_ms for result in results]), tune),
    ]


def worth(figures: dict[str, float], bound: float, tune: TuneConfig) -> float:
    """Return what a policy is compared by while trials run: the objective within the limits, less than `FAR` outside.

    As `Judgement.better_than`: within the limit the objective counts, outside of it how far.
    """
    broken = max(bound, _too_slow(figures["tune/latency_ms"], tune))
    return figures[f"tune/{tune.objective}"] if broken <= 0 else FAR - broken


def mean(values: list[float]) -> float:
    """Return the mean of some numbers."""
    return sum(values) / len(values)


def _too_slow(latency_ms: float, tune: TuneConfig) -> float:
    return -1.0 if tune.max_latency_ms is None else latency_ms / tune.max_latency_ms - 1.0


class _Watch:
    """Follows the training of one policy and reports the best policy so far."""

    def __init__(self, total: int, seed: int, before: list[float], tune: TuneConfig, report: Report) -> None:
        self.total, self.seed, self.before, self.tune, self.report = total, seed, before, tune, report
        self.best: tuple[bool, float] | None = None
        self.worth = 0.0
        self.reported = 0

    def __call__(self, step: int, entry: dict[str, float]) -> None:
        """Take the latest entry of the history."""
        if "tune/utility" not in entry:
            return  # alpha still grows: nothing is judged yet
        bound = entry["validation/bound"]
        rank = (bound <= 0, entry["validation/utility"] if bound <= 0 else -bound)  # as the policy is selected
        if self.best is None or rank > self.best:
            self.best, self.worth = rank, worth(entry, bound, self.tune)
        tenth = min(STEPS_PER_SEED * step // self.total, STEPS_PER_SEED)
        if tenth > self.reported:
            self.reported = tenth
            self.report(STEPS_PER_SEED * self.seed + tenth, mean([*self.before, self.worth]))
