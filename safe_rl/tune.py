"""Search for better settings: alpha, gamma, the multiplier and PPO's own, judged on validation rows alone.

python -m safe_rl.tune
python -m safe_rl.tune --tune.trials 100 --tune.workers 2
python -m safe_rl.tune --tune.mode pareto --table path/to/table --run_dir runs/mine
python -m safe_rl.tune --trial 17
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from safe_rl.command import Advice, run
from safe_rl.config import RunConfig, TuneRun

if TYPE_CHECKING:
    from envs.outcomes import OutcomeTable
    from safe_rl.tuning.report import Row
    from safe_rl.tuning.study import TrialStudy


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.tune`; return the exit code."""
    return run(
        tune,
        TuneRun,
        argv,
        name="tune",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(again="the same command goes on"),
    )


def tune(command: TuneRun) -> None:
    """Run the study, or what is left of it, and write its results; with `trial`, build that trial again."""
    from safe_rl.artefact import claim, refuse_stranger
    from safe_rl.pipeline import check_inputs, open_table
    from safe_rl.run_folder import RunFolder
    from safe_rl.training import check_splits, short_curriculum, unconstrained
    from safe_rl.tuning.space import check_space
    from safe_rl.tuning.study import TrialStudy, known_origin, origin
    from supervised.errors import ConfigError

    config = RunConfig(**{field.name: getattr(command, field.name) for field in fields(RunConfig)})
    place = Path(config.run_dir) / "tune"
    check_inputs(config)
    check_space(config)
    refuse_stranger(place, known_origin(config), ConfigError)
    with RunFolder(config.run_dir) as folder:
        folder.begin(config, "tune", list(range(config.tune.seeds_per_trial)))
        table = open_table(config, folder)
        check_splits(table)
        made_from = origin(config) | {"table_sha256": table.fingerprint}
        if command.trial is not None:
            from safe_rl.tuning.rebuild import rebuild

            study = TrialStudy(config, table.fingerprint, create=False)
            claim(place, made_from, ConfigError)
            rebuild(table, config, study, command.trial)
            folder.finish()
            return
        claim(place, made_from, ConfigError)
        study = TrialStudy(config, table.fingerprint)
        lost = _run(table, config, study)
        _finish(table, study, place)
        folder.finish()
    for line in filter(None, [unconstrained(config, table), short_curriculum(config), *lost]):
        print(f"warning: {line}", file=sys.stderr)


def _run(table: OutcomeTable, config: RunConfig, study: TrialStudy) -> list[str]:
    from tqdm import tqdm

    from safe_rl.tuning.workers import run_by_workers, run_trials

    total, done = config.tune.trials, study.finished()
    with tqdm(total=total, initial=done, desc="tune", unit="trial", disable=None) as bar:

        def finished() -> None:
            bar.update(study.finished() - bar.n)

        if done == total:
            return []
        if config.tune.workers > 1:
            return run_by_workers(table.directory, config, study, finished)
        run_trials(table, config, study, finished)
    return []


def _finish(table: OutcomeTable, study: TrialStudy, place: Path) -> None:
    """Write the results of a study and tell what they are.

    Raises:
        SafeError: no trial keeps the limits; the results are written all the same, but for a best configuration.
    """
    from safe_rl.report import print_table
    from safe_rl.tuning.pictures import draw_front, draw_history, draw_importance
    from safe_rl.tuning.report import (
        best_of,
        configuration_of,
        importance_of,
        rows_of,
        settings_table,
        table_of,
        write_best,
        write_study,
        write_trials,
    )
    from supervised.errors import SafeError

    rows = rows_of(study.trials())
    best, importance = best_of(rows, study.tune), importance_of(study)
    for name in ("best.yaml", "importance.png", "history.png", "front.png"):
        (place / name).unlink(missing_ok=True)  # of an earlier, smaller study
    write_trials(place / "trials.csv", rows)
    write_study(place / "study.json", study, rows, importance)
    if importance:
        draw_importance(place / "importance.png", importance)
    if study.tune.mode == "pareto":
        draw_front(place / "front.png", rows, best)
    else:
        draw_history(place / "history.png", rows, study.tune.objective, best)
    print_table(table_of(rows, best, study.tune))
    if best is None:
        raise SafeError(_none_feasible(rows, study))
    print_table(settings_table(best, rows))
    config = configuration_of(study.stored(best.number), table, place / "best")
    write_best(place / "best.yaml", config, best, study)
    _tell(rows, best, place)


def _tell(rows: list[Row], best: Row, place: Path) -> None:
    own = next((row for row in rows if row.number == 0 and row.figures), None)
    if own is not None and own is not best:
        gained = best.figures["utility"] - own.figures["utility"]
        print(f"Utility of trial {best.number} minus that of trial 0, the run's own configuration: {gained:+.4f}")
    print(
        "A best of many on the same rows looks better than it is; the test rows tell:\n"
        f"  python -m safe_rl.train_policy --config {place / 'best.yaml'}"
    )
    print(f"Trials, pictures and the best configuration: {place}")


def _none_feasible(rows: list[Row], study: TrialStudy) -> str:
    tried = [row for row in rows if row.state == "complete"]
    if not tried:
        reasons = [f"trial {row.number}: {row.reason}" for row in rows if row.reason]
        return (
            f"None of {len(rows)} trials was completed ({reasons[0] if reasons else 'no reason is known'}); narrow "
            f"tune.space, e.g. a lower --tune.space.learning_rate, in another --run_dir."
        )
    nearest = min(tried, key=lambda row: max(row.broken))
    broken = "the limit on the cost" if nearest.broken[0] == max(nearest.broken) else "tune.max_latency_ms"
    return (
        f"No trial of {len(rows)} keeps the limits on the validation rows (nearest: trial {nearest.number}, which "
        f"breaks {broken} by {max(nearest.broken):.4f}), so there is no best.yaml; give more --tune.trials, or in "
        f"another --run_dir a higher lagrangian.limit or tune.space.multiplier_maximum."
    )


if __name__ == "__main__":
    sys.exit(main())
