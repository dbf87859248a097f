"""What a trial of a study draws, and when it is ended early: its number and the earlier batches decide, nothing else.

Trials of one batch (`tune.batch`; the first batch is `tune.startup`) are drawn from the results of the batches before
theirs, each with a random generator of its own number. So a study is the same whoever runs its trials, in which order
they end, and however often one was interrupted. Optuna's sampler and pruner see a copy of the earlier batches only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from safe_rl.config import RunConfig
from safe_rl.tuning.config import TuneConfig
from safe_rl.tuning.space import Settings, draw, own_settings

STEPS_PER_SEED = 10
"""A trial reports ten times while it trains a policy."""
PRUNED_FROM = 5
"""First report at which a trial may be ended: half of its first policy."""
LIMITS = "constraints"
"""User attribute of a trial: by how much it breaks the limit on the cost and that on latency; <= 0: not at all."""
OLD = not hasattr(Trial, "set_constraint")
"""Whether this is optuna 4, where constraints are the sampler's."""


def earlier_trials(trials: Sequence[FrozenTrial], tune: TuneConfig, number: int) -> list[FrozenTrial] | None:
    """Return the trials of the batches before that of trial `number`; None: some of them are not finished."""
    first = tune.first_of_batch(number)
    found = sorted((trial for trial in trials if trial.number < first), key=lambda trial: trial.number)
    whole = len(found) == first and all(trial.state.is_finished() for trial in found)
    return found if whole else None


def settings_of(
    number: int, earlier: Sequence[FrozenTrial], config: RunConfig, space: Mapping[str, BaseDistribution]
) -> Settings:
    """Return what trial `number` tries, given all trials of the batches before its own."""
    if number == 0:
        return own_settings(config, space)
    seed = int(np.random.SeedSequence([config.tune.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of options that 5.0 has settled
        warnings.simplefilter("ignore", FutureWarning)  # of `constraints_func`, which only optuna 4 is given
        sampler: BaseSampler = _tpe(config.tune, seed) if config.tune.sampler == "tpe" else RandomSampler(seed=seed)
        return draw(_copy(earlier, config.tune, sampler).ask(), space)


def is_hopeless(reports: Mapping[int, float], earlier: Sequence[FrozenTrial], tune: TuneConfig) -> bool:
    """Whether a trial with these reports so far falls behind the median of the earlier batches."""
    pruner = MedianPruner(n_startup_trials=1, n_warmup_steps=PRUNED_FROM, interval_steps=1, n_min_trials=3)
    running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(reports))
    return bool(pruner.prune(_copy(earlier, tune, None), running))


class Drawn(BaseSampler):
    """The sampler of the study itself: gives a trial what `settings_of` found for it."""

    def __init__(self) -> None:
        self.settings: Settings = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: every setting is given by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of one setting."""
        return self.settings[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Let optuna 4 store the constraints where its sampler reads them."""
        if OLD:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                TPESampler(constraints_func=_constraints).after_trial(study, trial, state, values)


def _tpe(tune: TuneConfig, seed: int) -> TPESampler:
    # Every option whose default differs between optuna 4 and 5 is given.
    return TPESampler(
        n_startup_trials=tune.startup,
        multivariate=tune.mode == "single",
        constant_liar=False,  # a batch before this one has no running trials
        seed=seed,
        constraints_func=_constraints if OLD else None,
    )


def _constraints(trial: FrozenTrial) -> Sequence[float]:
    return tuple(trial.user_attrs.get(LIMITS, (0.0,)))


def _copy(trials: Sequence[FrozenTrial], tune: TuneConfig, sampler: BaseSampler | None) -> Study:
    study = optuna.create_study(directions=directions(tune), sampler=sampler)
    study.add_trials(trials)
    return study


def directions(tune: TuneConfig) -> list[StudyDirection]:
    """Return whether each objective is raised or lowered."""
    raised, lowered = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [raised, lowered] if tune.mode == "pareto" else [raised]
