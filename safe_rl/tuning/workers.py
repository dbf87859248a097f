"""Who runs the trials of a study: this process, or some of its children; any number of commands may do so at once.

A worker ends when all trials of the study are finished, by whomever. It takes over what others leave behind.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from optuna import TrialPruned
from optuna.trial import FrozenTrial, Trial, TrialState

from agents.divergence import Diverged
from safe_rl.command import Advice
from safe_rl.config import RunConfig
from safe_rl.options import to_dict
from safe_rl.run_folder import versions
from safe_rl.tuning.batches import LIMITS, OLD, is_hopeless, settings_of
from safe_rl.tuning.owner import Heartbeat, Owner
from safe_rl.tuning.space import configured, distributions, draw
from safe_rl.tuning.study import REASON, TrialStudy
from safe_rl.tuning.trials import Bench, SeedResult, limits_broken, objectives
from safe_rl.workers import Tell, run_workers
from supervised.errors import SafeError

if TYPE_CHECKING:
    from envs.outcomes import OutcomeTable

POLL = 0.2
"""Seconds between two looks at a study whose next trial has to wait for others."""
PER_SEED = "per_seed"
WORKERS = Advice(
    again="the same command goes on",
    memory="fewer --tune.workers, a smaller --smoothing.max_rows, or narrower widths in --tune.space.hidden",
)
"""What a worker of a study tells to do; the table is there by then."""


def run_trials(table: OutcomeTable, config: RunConfig, study: TrialStudy, finished: Tell) -> None:
    """Run trials until all of the study are finished; `finished` is called whenever some of them may be.

    Raises:
        ConfigError: the study turned out to be another's.
        Exception: whatever a trial raised that is not about its settings; the trial waits to be run again.
    """
    owner, bench = Owner.here(), Bench(table, config)
    while True:
        study.check()
        study.put_back_abandoned()
        finished()
        if taken := study.take(owner):
            run_trial(bench, study, owner, *taken)
        elif study.finished() == config.tune.trials:
            finished()
            return
        else:
            time.sleep(POLL)


def run_trial(bench: Bench, study: TrialStudy, owner: Owner, trial: Trial, earlier: list[FrozenTrial]) -> None:
    """Run one trial and write its result; one that is interrupted goes back to the others."""
    config = bench.config
    try:
        space = distributions(config)
        study.sampler.settings = settings_of(trial.number, earlier, config, space)
        settings = draw(trial, space)
        # The first trial is the run itself, also where the space cannot say so.
        trial_config = configured(config, settings) if trial.number else config
        trial.set_user_attr("config", to_dict(portable(trial_config)))
        trial.set_user_attr("seeds", list(range(config.tune.seeds_per_trial)))
        trial.set_user_attr("versions", versions())
        with Heartbeat(lambda at: study.sign(trial.number, at)):
            state, results, reason = _train(bench, trial_config, study, trial, earlier)
        values = objectives(results, config.tune) if state == TrialState.COMPLETE else None
        if results:
            _constrain(trial, limits_broken(results, config.tune))
        trial.set_user_attr(PER_SEED, [asdict(result) for result in results])
        trial.set_user_attr(REASON, reason)
        study.finish(trial, owner, state, values)
    except BaseException:
        study.put_back(trial.number, owner)
        raise


def portable(config: RunConfig) -> RunConfig:
    """Return a run as it is kept with a trial: where a study is stored may hold a password, and is no part of it."""
    return replace(config, tune=replace(config.tune, storage=None), resume=False)


def _train(
    bench: Bench, trial_config: RunConfig, study: TrialStudy, trial: Trial, earlier: list[FrozenTrial]
) -> tuple[TrialState, list[SeedResult], str | None]:
    reports: dict[int, float] = {}
    known = set(study.stored(trial.number).intermediate_values)  # of an attempt that was interrupted

    def report(step: int, value: float) -> None:
        if study.tune.mode == "pareto":
            return  # a trial with two objectives has no order
        reports[step] = value
        if step not in known:
            trial.report(value, step)
        if study.tune.prunes and is_hopeless(reports, earlier, study.tune):
            raise TrialPruned

    results: list[SeedResult] = []
    try:
        for _, result in bench.train(trial_config, report):
            results.append(result)
    except TrialPruned:
        return TrialState.PRUNED, results, f"below the median of earlier trials at report {max(reports)}"
    except Diverged as error:
        return TrialState.FAIL, results, error.reason
    return TrialState.COMPLETE, results, None


def _constrain(trial: Trial, broken: list[float]) -> None:
    trial.set_user_attr(LIMITS, broken)
    if not OLD:
        for name, value in zip(("cost", "latency"), broken, strict=True):
            if name not in trial.constraints:
                trial.set_constraint(name, value)


def run_by_workers(table: Path, config: RunConfig, study: TrialStudy, finished: Tell) -> list[str]:
    """Let `tune.workers` processes run trials until all are finished.

    Returns:
        A line for every worker that was killed while the others went on.

    Raises:
        SafeError: a worker met something that a user can mend, or all of them were killed.
        RuntimeError: a worker died of a mistake of ours; its traceback is on stderr.
    """
    lost: list[str] = []

    def killed(number: int) -> None:
        lost.append(f"a worker was killed (signal {number}); another took over its trial.")

    works = [partial(_work, table, config)] * min(config.tune.workers, config.tune.trials)
    try:
        run_workers(works, finished, killed, config.run_dir, WORKERS)
    finally:
        study.put_back_abandoned()
    if study.finished() < config.tune.trials:
        raise SafeError(
            "All workers of the study were killed, perhaps for want of memory; give a smaller --tune.workers, and the "
            "same command goes on."
        )
    return lost


def _work(table: Path, config: RunConfig, finished: Tell) -> None:
    """Run trials in a process of its own."""
    from envs.outcomes import OutcomeTable

    opened = OutcomeTable.open(table)
    run_trials(opened, config, TrialStudy(config, opened.fingerprint), finished)
