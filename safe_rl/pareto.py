"""Sweep the price of latency and draw accuracy against latency: the policy, the baselines and the oracle.

python -m safe_rl.pareto
python -m safe_rl.pareto --pareto.alphas "[0, 0.3, 1]" --pareto.seeds 2
python -m safe_rl.pareto --table path/to/table --run_dir runs/mine
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from safe_rl.command import run
from safe_rl.config import RunConfig

if TYPE_CHECKING:
    from envs.outcomes import OutcomeTable
    from safe_rl.comparison import Comparison
    from safe_rl.sweep import Cell

MOVING = ("ppo_lagrangian", "oracle", "type_majority", "confidence")
"""Policies that change with alpha: curves. The others that are drawn, always and never, are points."""


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.pareto`; return the exit code."""
    return run(pareto, RunConfig, argv, name="pareto", description=__doc__, folder=lambda config: config.run_dir)


def pareto(config: RunConfig) -> None:
    """Train every cell of the sweep that is not there yet, judge them, and write CSV, PNG and metrics."""
    from safe_rl.pipeline import check_inputs, open_table
    from safe_rl.run_folder import RunFolder
    from safe_rl.sweep import check_cells, claim_cells, train_cells, warnings_of
    from safe_rl.training import check_splits, short_curriculum

    check_inputs(config)
    place = Path(config.run_dir) / "pareto"
    check_cells(place, config)
    seeds = list(range(config.pareto.seeds))
    with RunFolder(config.run_dir) as folder:
        folder.begin(config, "pareto", seeds)
        table = open_table(config, folder)
        check_splits(table)
        claim_cells(place, config, table)
        cells = train_cells(table, config, place)
        sweep = _judge(table, config, cells)
        write_csv(place / "pareto.csv", sweep)
        _draw(place, sweep, config.pareto.seeds)
        _write_metrics(place / "metrics.json", table, sweep, seeds)
        folder.finish()
    _tell(sweep)
    for warning in filter(None, [short_curriculum(config), *warnings_of(cells)]):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Curve: {place / 'pareto.png'} and {place / 'pareto.html'}, figures: {place / 'pareto.csv'}")


def write_csv(path: Path, sweep: dict[float, Comparison]) -> None:
    """Write one row per alpha and policy, with mean, low and high of every metric; empty where there is none."""
    import csv
    import io

    from safe_rl.comparison import METRICS
    from supervised.files import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["alpha", "policy", *(f"{metric}_{end}" for metric in METRICS for end in ("mean", "low", "high"))])
    for alpha, policies in sweep.items():
        for name, figures in policies.items():
            intervals = [figures[metric] or {} for metric in METRICS]
            writer.writerow(
                [alpha, name, *(interval.get(end, "") for interval in intervals for end in ("mean", "low", "high"))]
            )
    write_text(path, text.getvalue())


def _judge(table: OutcomeTable, config: RunConfig, cells: dict[Cell, Path]) -> dict[float, Comparison]:
    """Judge the policies of every alpha, and the baselines at it, in the order of alpha."""
    import numpy as np

    from agents.gate_policy import load_policy
    from safe_rl.comparison import Judge

    judge = Judge(table, config.reward)
    rows = table.split("test").observation(slice(None))
    sweep = {}
    for alpha in sorted(config.pareto.alphas):
        judge.set_alpha(alpha)
        sweep[alpha] = judge.compare(
            np.stack([load_policy(folder).decide(rows) for (price, _), folder in cells.items() if price == alpha])
        )
    return sweep


def _draw(place: Path, sweep: dict[float, Comparison], seeds: int) -> None:
    """Draw the sweep twice: a PNG to print, and an HTML file that shows every figure."""
    from safe_rl.interactive import draw_interactive
    from safe_rl.pictures import draw_pareto

    curves = {name: [policies[name] for policies in sweep.values()] for name in MOVING}
    first = next(iter(sweep.values()))
    points = {name: first[name] for name in ("always", "never")}
    title = f"The price of latency: {len(sweep)} alphas, {seeds} seed{'s' if seeds > 1 else ''}, test split"
    draw_pareto(curves, points, place / "pareto.png", title)
    draw_interactive(curves, points, place / "pareto.html", title, [f"alpha {alpha:g}" for alpha in sweep])


def _write_metrics(path: Path, table: OutcomeTable, sweep: dict[float, Comparison], seeds: list[int]) -> None:
    from supervised.files import write_json

    points = [{"alpha": alpha, "policies": policies} for alpha, policies in sweep.items()]
    write_json(path, {"seeds": seeds, "table_sha256": table.fingerprint, "points": points})


def _tell(sweep: dict[float, Comparison]) -> None:
    from safe_rl.report import show

    curve = {f"alpha {alpha:g}": policies["ppo_lagrangian"] for alpha, policies in sweep.items()}
    show(curve, "PPO-Lagrangian on the test split, 95 % intervals below the means")


if __name__ == "__main__":
    sys.exit(main())
