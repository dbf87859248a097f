"""A trial again: its stored configuration goes in, its policies are trained once more and compared to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from agents.divergence import Diverged
from agents.gate_policy import save_policy
from safe_rl.config import RunConfig
from safe_rl.options import from_dict, to_dict, to_yaml
from safe_rl.run_folder import versions
from safe_rl.tuning.report import configuration_of
from safe_rl.tuning.study import REASON, TrialStudy
from safe_rl.tuning.trials import Bench, SeedResult, objectives
from safe_rl.tuning.workers import PER_SEED
from supervised.differences import differences
from supervised.errors import ConfigError, SafeError
from supervised.files import write_text

if TYPE_CHECKING:
    from envs.outcomes import OutcomeTable


class _Stopped(Exception):
    """The trial was pruned here."""


def rebuild(table: OutcomeTable, config: RunConfig, study: TrialStudy, number: int) -> None:
    """Train a trial again, as far as it went, write its policies, and say whether every figure is the same.

    Raises:
        ConfigError: the study has no such trial, or it is not finished.
        SafeError: a figure differs; the line names the first, and the packages whose versions differ.
    """
    trial = _finished(study, number)
    place = Path(config.run_dir) / "tune" / f"trial-{number}"
    write_text(place / "config.yaml", to_yaml(configuration_of(trial, table, place)))
    there = _stored(trial)
    here = _again(table, config, study, trial, place)
    for key, stored, found in differences(there, json.loads(json.dumps(here))):
        other = [
            f"{name} {before} there, {now} here"
            for name, before, now in differences(trial.user_attrs.get("versions", {}), versions())
        ]
        why = f"versions differ: {', '.join(other)}" if other else "the versions are the same, so look at the machine"
        raise SafeError(f"Trial {number} is not what it was ({key}: {stored} there, {found} here); {why}.")
    values = ", ".join(map(repr, there["values"] or [])) or "none"
    print(f"Trial {number}, {trial.state.name.lower()}{f' ({reason})' if (reason := there[REASON]) else ''}.")
    print(f"Equal to the bit: value {values}; {len(here[PER_SEED])} policies, {len(here['reports'])} reports.")
    print(f"Configuration and policies: {place}")


def _finished(study: TrialStudy, number: int) -> FrozenTrial:
    trials = {trial.number: trial for trial in study.trials()}
    if number not in trials:
        raise ConfigError(
            f"trial must be one of the study's {len(trials)}, 0 to {len(trials) - 1}, got {number}; "
            f"tune/trials.csv lists them."
        )
    if not trials[number].state.is_finished():
        raise ConfigError(f"Trial {number} is not finished; run the command without --trial first.")
    return trials[number]


def _stored(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "values": trial.values if trial.state == TrialState.COMPLETE else None,
        PER_SEED: trial.user_attrs[PER_SEED],
        "reports": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        REASON: trial.user_attrs[REASON],
    }


def _again(
    table: OutcomeTable, config: RunConfig, study: TrialStudy, trial: FrozenTrial, place: Path
) -> dict[str, Any]:
    last = trial.last_step if trial.state == TrialState.PRUNED else None
    reports: dict[str, float] = {}
    results: list[SeedResult] = []
    reason = trial.user_attrs[REASON] if trial.state == TrialState.PRUNED else None

    def report(step: int, value: float) -> None:
        if study.tune.mode == "single":
            reports[str(step)] = value
        if step == last:
            raise _Stopped

    trial_config = from_dict(RunConfig, trial.user_attrs["config"])
    try:
        for agent, result in Bench(table, config).train(trial_config, report):
            results.append(result)
            told = {"seed": result.seed, "trial": trial.number, "table_sha256": table.fingerprint}
            save_policy(place / f"seed-{result.seed}", agent.policy, told | {"selected": to_dict(agent.selected)})
    except _Stopped:
        pass
    except Diverged as error:
        reason = error.reason
    return {
        "values": objectives(results, study.tune) if len(results) == study.tune.seeds_per_trial else None,
        PER_SEED: [to_dict(result) for result in results],
        "reports": reports,
        REASON: reason,
    }
