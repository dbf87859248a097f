"""What a study found: its trials go in; the best configuration, tables, and figures for pictures come out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from safe_rl.config import RunConfig
from safe_rl.options import from_dict, to_dict, to_yaml
from safe_rl.tuning.batches import LIMITS
from safe_rl.tuning.config import TuneConfig
from safe_rl.tuning.study import REASON, TrialStudy, shown
from safe_rl.tuning.trials import mean
from safe_rl.tuning.workers import PER_SEED
from supervised.files import write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from envs.outcomes import OutcomeTable

FIGURES = ("utility", "accuracy", "latency_ms", "usage")
SHOWN = 8
"""Trials in the final table."""


@dataclass(frozen=True)
class Row:
    """One finished trial."""

    number: int
    state: str
    """complete, pruned or fail."""
    values: list[float] | None
    figures: dict[str, float]
    """Means over the policies that were trained to their end; empty where there is none."""
    spread: float
    """Largest minus smallest utility of these policies."""
    broken: list[float]
    """By how much the limits on cost and latency are broken; <= 0: not."""
    settings: dict[str, Any]
    seconds: float
    reason: str | None
    per_seed: list[dict[str, float]]
    last_report: float | None
    """What its policies were worth when it last reported (see `safe_rl.tuning.trials.worth`)."""

    @property
    def feasible(self) -> bool:
        """Whether the trial is complete and keeps every limit."""
        return self.state == "complete" and max(self.broken) <= 0


def rows_of(trials: Sequence[FrozenTrial]) -> list[Row]:
    """Return the finished trials, by number."""
    return [_row(trial) for trial in trials if trial.state.is_finished()]


def _row(trial: FrozenTrial) -> Row:
    per_seed = trial.user_attrs.get(PER_SEED, [])
    utilities = [result["utility"] for result in per_seed]
    return Row(
        number=trial.number,
        state=trial.state.name.lower(),
        values=list(trial.values) if trial.state == TrialState.COMPLETE else None,
        figures={name: mean([result[name] for result in per_seed]) for name in FIGURES} if per_seed else {},
        spread=max(utilities) - min(utilities) if utilities else 0.0,
        broken=list(trial.user_attrs.get(LIMITS, [])),
        settings={key: _setting(trial.user_attrs["config"], key) for key in trial.params},
        seconds=round(trial.duration.total_seconds(), 2) if trial.duration else 0.0,
        reason=trial.user_attrs.get(REASON),
        per_seed=per_seed,
        last_report=trial.intermediate_values[trial.last_step] if trial.last_step is not None else None,
    )


def _setting(config: dict[str, Any], key: str) -> Any:
    """Return a setting as it was used; for the run itself, that may lie outside of the space."""
    section, _, name = key.partition(".")
    value = config[section][name]
    return "null" if value is None else " ".join(map(str, value)) if isinstance(value, list) else value


def front_of(rows: Sequence[Row]) -> list[Row]:
    """Return the feasible trials that no other feasible one beats in accuracy and latency, the fastest first."""
    feasible = sorted(
        (row for row in rows if row.feasible), key=lambda row: (row.figures["latency_ms"], -row.figures["accuracy"])
    )
    front: list[Row] = []
    for row in feasible:
        if not front or row.figures["accuracy"] > front[-1].figures["accuracy"]:
            front.append(row)
    return front


def best_of(rows: Sequence[Row], tune: TuneConfig) -> Row | None:
    """Return the best feasible trial; of a front, the one of the highest utility at the run's own reward."""
    feasible = front_of(rows) if tune.mode == "pareto" else [row for row in rows if row.feasible]

    def value(row: Row) -> float:
        assert row.values is not None  # complete
        return row.figures["utility"] if tune.mode == "pareto" else row.values[0]

    return max(feasible, key=lambda row: (value(row), -row.number), default=None)


def ranked(rows: Sequence[Row], tune: TuneConfig) -> list[Row]:
    """Return the trials, the best first: what keeps the limits by its value, then the others by how far they miss."""
    objective = "utility" if tune.mode == "pareto" else tune.objective
    return sorted(
        (row for row in rows if row.figures and row.broken),
        key=lambda row: (
            not row.feasible,
            row.state != "complete",
            -row.figures[objective] if max(row.broken) <= 0 else max(row.broken),
        ),
    )


def configuration_of(trial: FrozenTrial, table: OutcomeTable, run_dir: Path) -> RunConfig:
    """Return the complete run that a trial is, with this table and another folder, where `train_policy` takes it."""
    config: RunConfig = from_dict(RunConfig, trial.user_attrs["config"])
    return replace(config, table=str(table.directory), run_dir=str(run_dir))


def write_best(path: Path, config: RunConfig, row: Row, study: TrialStudy) -> None:
    """Write the configuration of a trial as YAML."""
    words = ", ".join(f"{name} {row.figures[name]:.4f}" for name in FIGURES)
    head = f"# Trial {row.number} of the study {study.name!r}. Validation, mean of {len(row.per_seed)}: {words}.\n"
    write_text(path, head + to_yaml(config))


def write_trials(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per finished trial."""
    text = io.StringIO()
    settings = list(dict.fromkeys(key for row in rows for key in row.settings))
    names = ["trial", "state", "feasible", *FIGURES, "utility_spread", "cost_above_limit", "latency_above_limit"]
    writer = csv.DictWriter(text, [*names, "utility_per_seed", *settings, "seconds", "reason"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        told = {"trial": row.number, "state": row.state, "feasible": row.feasible, "utility_spread": row.spread}
        told |= dict(zip(names[-2:], row.broken, strict=False))
        told |= {"utility_per_seed": " ".join(str(result["utility"]) for result in row.per_seed)}
        writer.writerow(told | row.figures | row.settings | {"seconds": row.seconds, "reason": row.reason})
    write_text(path, text.getvalue())


def write_study(path: Path, study: TrialStudy, rows: Sequence[Row], importance: dict[str, dict[str, float]]) -> None:
    """Write everything that is known about a study, but for the complete configurations of its trials."""
    best = best_of(rows, study.tune)
    states = [row.state for row in rows]
    write_json(
        path,
        {
            "study": study.name,
            "storage": shown(study.where),
            "made_from": study.made_from,
            "tune": to_dict(replace(study.tune, storage=None)),
            "trials_finished": len(rows),
            "states": {state: states.count(state) for state in sorted(set(states))},
            "feasible": sum(row.feasible for row in rows),
            "best": best.number if best else None,
            "front": [row.number for row in front_of(rows)],
            "importance": importance,
            "trials": [to_dict(row) | {"feasible": row.feasible} for row in rows],
        },
    )


def importance_of(study: TrialStudy) -> dict[str, dict[str, float]]:
    """Return how much of the variance of each objective each setting explains (functional ANOVA); {}: too few trials.

    Hutter et al., An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    names = ["accuracy", "latency_ms"] if study.tune.mode == "pareto" else [study.tune.objective]
    found: dict[str, dict[str, float]] = {}
    for i, name in enumerate(names):
        if len(complete) < 4 or len({trial.values[i] for trial in complete}) < 2:
            continue
        found[name] = get_param_importances(
            study.study,
            evaluator=FanovaImportanceEvaluator(seed=study.tune.seed),
            target=lambda trial, i=i: trial.values[i],  # type: ignore[misc]
        )
    return found


def table_of(rows: Sequence[Row], best: Row | None, tune: TuneConfig) -> Table:
    """Return the best trials as a table for people; the run's own configuration stands in it, wherever it ranks."""
    headings = ("utility", "spread", "accuracy %", "latency ms", "usage %", "over limit, points", "state")
    table = _table(f"Best of {len(rows)} trials, validation rows, means of {tune.seeds_per_trial}", "trial", headings)
    order = ranked(rows, tune)
    for row in order[:SHOWN] + [row for row in order[SHOWN:] if row.number == 0]:
        figures = row.figures
        table.add_row(
            _name(row),
            f"{figures['utility']:.4f}",
            f"{row.spread:.4f}",
            f"{100 * figures['accuracy']:.1f}",
            f"{figures['latency_ms']:.2f}",
            f"{100 * figures['usage']:.1f}",
            f"{100 * row.broken[0]:+.2f}",
            row.state if row.feasible or row.state != "complete" else "breaks a limit",
            style="bold" if row is best else None,
        )
    return table


def settings_table(best: Row, rows: Sequence[Row]) -> Table:
    """Return the settings of the best trial beside those of the run itself."""
    shown = [best, *(row for row in rows if row.number == 0 and row is not best)]
    table = _table("Settings", "key", [_name(row) for row in shown])
    for key in best.settings:
        table.add_row(key, *(_short(row.settings.get(key)) for row in shown))
    return table


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _name(row: Row) -> str:
    return f"{row.number}{' (the run itself)' if row.number == 0 else ''}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
