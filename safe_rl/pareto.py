"""Sweep the price of latency and draw accuracy against latency: the policy, the baselines and the oracle.

python -m safe_rl.pareto
python -m safe_rl.pareto --agent exact
python -m safe_rl.pareto --pareto.alphas "[0, 0.3, 1]" --pareto.seeds 2
python -m safe_rl.pareto --table path/to/table --run_dir runs/mine
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.command import run
from safe_rl.config import LEARNED, RunConfig

if TYPE_CHECKING:
    from agents.certificates.certificate import Certificate
    from envs.outcomes import OutcomeTable
    from safe_rl.comparison import Comparison
    from safe_rl.sweep import Cell

MOVING = ("oracle", "type_majority", "confidence")
"""Baselines that change with alpha: curves, as is what was learned. Always and never are points."""
PLACES = {"ppo": "pareto", "exact": "pareto_exact"}
"""Agent -> folder of its sweep within the run."""
CERTIFIED = "certified to use audio, every seed"


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.pareto`; return the exit code."""
    return run(pareto, RunConfig, argv, name="pareto", description=__doc__, folder=lambda config: config.run_dir)


def pareto(config: RunConfig) -> None:
    """Train every cell of the sweep that is not there yet, judge them, and write CSV, PNG and metrics."""
    from safe_rl.pipeline import check_inputs, open_table
    from safe_rl.run_folder import RunFolder
    from safe_rl.sweep import certify_cells, check_cells, claim_cells, train_cells, warnings_of
    from safe_rl.training import check_splits, divided_groups, short_curriculum

    check_inputs(config)
    place = Path(config.run_dir) / PLACES[config.agent]
    check_cells(place, config)
    seeds = list(range(config.pareto.seeds))
    with RunFolder(config.run_dir) as folder:
        folder.begin(config, "pareto", seeds)
        table = open_table(config, folder)
        check_splits(table)
        claim_cells(place, config, table)
        cells = train_cells(table, config, place)
        certificates, told = certify_cells(table, config, cells)
        sweep = _judge(table, config, cells, certificates)
        write_csv(place / "pareto.csv", sweep)
        other, damaged = _other_sweep(config, table)
        _draw(place, sweep, config, other, certificates)
        _write_metrics(place / "metrics.json", table, sweep, seeds)
        folder.finish()
    _tell(sweep, LEARNED[config.agent])
    for warning in filter(None, [divided_groups(table), told, damaged, short_curriculum(config), *warnings_of(cells)]):
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


def _judge(
    table: OutcomeTable, config: RunConfig, cells: dict[Cell, Path], certificates: dict[Cell, Certificate]
) -> dict[float, Comparison]:
    """Judge the policies of every alpha, as trained and as certified, and the baselines, in the order of alpha."""
    import numpy as np

    from agents.certificates.certificate import gate_actions
    from agents.gate_policy import load_policy
    from safe_rl.comparison import Judge

    judge = Judge(table, config.reward)
    rows = table.split("test").observation(slice(None))
    sweep = {}
    for alpha in sorted(config.pareto.alphas):
        judge.set_alpha(alpha)
        chances = {cell: load_policy(folder).probabilities(rows) for cell, folder in cells.items() if cell[0] == alpha}
        sweep[alpha] = judge.compare(
            np.stack([chance.argmax(axis=1) for chance in chances.values()]), LEARNED[config.agent]
        )
        if certificates:
            gates = [gate_actions(chance, certificates[cell].threshold) for cell, chance in chances.items()]
            sweep[alpha]["certified"] = judge.figures(np.stack(gates))
    return sweep


def _draw(
    place: Path,
    sweep: dict[float, Comparison],
    config: RunConfig,
    other: dict[str, list[Any]],
    certificates: dict[Cell, Certificate],
) -> None:
    """Draw the sweep twice, beside the curve of the other agent: a PNG, and an HTML file that shows every figure."""
    from safe_rl.interactive import draw_interactive
    from safe_rl.pictures import draw_pareto

    learned, seeds = LEARNED[config.agent], config.pareto.seeds
    names = [learned, *(["certified"] if certificates else []), *MOVING]
    curves = {name: [policies[name] for policies in sweep.values()] for name in names}
    curves |= other
    marks = {}
    if certificates:
        used = [all(certificates[alpha, seed].threshold < math.inf for seed in range(seeds)) for alpha in sweep]
        marks["certified"] = [CERTIFIED if each else None for each in used]
    first = next(iter(sweep.values()))
    points = {name: first[name] for name in ("always", "never")}
    title = f"The price of latency: {len(sweep)} alphas, {seeds} seed{'s' if seeds > 1 else ''}, test split"
    labels = [f"alpha {alpha:g}" for alpha in sweep]
    draw_pareto(curves, points, place / "pareto.png", title, marks)
    draw_interactive(curves, points, place / "pareto.html", title, labels, marks)


def _other_sweep(config: RunConfig, table: OutcomeTable) -> tuple[dict[str, list[Any]], str | None]:
    """Return the curve of the other agent's sweep, if the run has one of the same table and alphas.

    Returns:
        The curve by its name, or nothing; and one line if the sweep is there but cannot be read.
    """
    (agent,) = PLACES.keys() - {config.agent}
    path = Path(config.run_dir) / PLACES[agent] / "metrics.json"
    if not path.is_file():
        return {}, None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        alphas = [point["alpha"] for point in found["points"]]
        if found["table_sha256"] != table.fingerprint or alphas != sorted(config.pareto.alphas):
            return {}, None
        return {LEARNED[agent]: [point["policies"][LEARNED[agent]] for point in found["points"]]}, None
    except (ValueError, KeyError, TypeError):
        return {}, f"{path} is damaged, so its curve is not drawn; run pareto --agent {agent} again."


def _write_metrics(path: Path, table: OutcomeTable, sweep: dict[float, Comparison], seeds: list[int]) -> None:
    from supervised.files import write_json

    points = [{"alpha": alpha, "policies": policies} for alpha, policies in sweep.items()]
    write_json(path, {"seeds": seeds, "table_sha256": table.fingerprint, "points": points})


def _tell(sweep: dict[float, Comparison], learned: str) -> None:
    from safe_rl.pictures import STYLES
    from safe_rl.report import show

    curve = {f"alpha {alpha:g}": policies[learned] for alpha, policies in sweep.items()}
    show(curve, f"{STYLES[learned][0]} on the test split, 95 % intervals below the means")


if __name__ == "__main__":
    sys.exit(main())
