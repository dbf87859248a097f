"""Distil the policies of a run into students of one hidden layer: recalibrated, certified, exported to ONNX.

python -m safe_rl.distill
python -m safe_rl.distill --run_dir runs/mine --table path/to/table --distill.hidden 64
python -m safe_rl.distill --config runs/mine/config.yaml --distill.onnx false
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.command import Advice, run
from safe_rl.config import RunConfig

if TYPE_CHECKING:
    from envs.outcomes import OutcomeTable

UNITS = {
    "agreement": "share of test rows on which student and teacher take the same action",
    "utility_gained": "utility of the student minus the teacher's, test rows; 0.005 is half a point",
    "latency_us": "microseconds of one decision in NumPy: one row alone, and one of 1,024 rows at once",
    "validation.calibration_error": "mean distance of the student's use probability from the teacher's, 15 bins",
    "use_ece": "expected calibration error of the use probability as that of audio being the better action",
    "onnx_difference": "largest distance of a probability in onnxruntime from NumPy's",
}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.distill`; return the exit code."""
    return run(
        distill,
        RunConfig,
        argv,
        name="distill",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(again="the same command goes on", memory="a smaller --distill.batch_size"),
    )


def distill(config: RunConfig) -> None:
    """Make the students that are missing, judge all of them on the test split, and write distill.json."""
    from safe_rl.certifying import other_reward, table_of
    from safe_rl.distilling import certify_students, claim_students, export, judge, shortfalls, teachers_of
    from safe_rl.run_folder import RunFolder
    from safe_rl.training import check_splits, divided_groups
    from supervised.files import write_json

    run_dir = Path(config.run_dir)
    teachers = teachers_of(run_dir)
    place = table_of(config)
    if config.distill.onnx:
        from agents.onnx_export import require_onnx

        require_onnx()
    from envs.outcomes import OutcomeTable

    table = OutcomeTable.open(place)
    check_splits(table)
    config.certify.limits(len(table.retention_sets), config.lagrangian)  # refuses a wrong number before the work
    distilled = claim_students(config, table)
    pairs = {seed: (folder, distilled / folder.name) for seed, folder in teachers.items()}
    with RunFolder(run_dir) as folder:
        folder.begin(config, "distill", list(pairs))
        folder.note(table=table.fingerprint)
        facts = _make(table, config, pairs)
        recertified = certify_students(table, config, [student for _, student in pairs.values()])
        told = judge(table, config, pairs)
        for entry, known in zip(told["seeds"], facts, strict=True):
            entry["validation"] = known["validation"]
            if config.distill.onnx:
                entry["onnx_difference"] = export(pairs[entry["seed"]][1])
        warnings = [
            *filter(None, [divided_groups(table), other_reward(config, run_dir)]),
            *recertified,
            *shortfalls(told["seeds"]),
        ]
        write_json(run_dir / "distill.json", _summary(config, table) | told | {"warnings": warnings})
        folder.finish()
    _tell(told)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Students: {distilled}, figures: {run_dir / 'distill.json'}")


def _make(table: OutcomeTable, config: RunConfig, pairs: dict[int, tuple[Path, Path]]) -> list[dict[str, Any]]:
    """Distil every student that is missing; return what is known about each."""
    from tqdm import tqdm

    from safe_rl.distilling import student_of

    facts = []
    for seed, (teacher, student) in pairs.items():
        with tqdm(total=config.distill.steps, desc=f"distil seed-{seed}", unit="step", disable=None) as bar:

            def progress(step: int, bar: Any = bar) -> None:
                bar.update(step - bar.n)

            facts.append(student_of(table, config, seed, teacher, student, progress))
            progress(config.distill.steps)
    return facts


def _summary(config: RunConfig, table: OutcomeTable) -> dict[str, Any]:
    return {
        "hidden": config.distill.hidden,
        "alpha": config.reward.alpha,
        "gamma": config.reward.gamma,
        "table_sha256": table.fingerprint,
        "test_questions": len(table.split("test")),
        "units": UNITS,
    }


def _tell(told: dict[str, Any]) -> None:
    """Print a row per student, and teachers and students over all seeds."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from safe_rl.report import print_table, show

    table = Table(title="Students beside their teachers, test split", title_justify="left", box=SIMPLE_HEAD)
    headings = (
        "agreement %",
        "utility, teacher",
        "student",
        "gained, points",
        "temperature",
        "us, alone",
        "of 1,024",
    )
    for heading in ("seed", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in told["seeds"]:
        gained = [f"{100 * entry['utility_gained'][end]:+.2f}" for end in ("mean", "low", "high")]
        table.add_row(
            str(entry["seed"]),
            f"{100 * entry['agreement']:.2f}",
            f"{entry['utility']['teacher']['mean']:.4f}",
            f"{entry['utility']['student']['mean']:.4f}",
            f"{gained[0]} ({gained[1]} to {gained[2]})",
            f"{entry['validation']['temperature']:.3f}",
            f"{entry['latency_us']['one_row_us']:.1f}",
            f"{entry['latency_us']['row_us_1024']:.2f}",
        )
    print_table(table)
    seeds = f"{len(told['seeds'])} seed{'s' if len(told['seeds']) > 1 else ''}"
    show(told["policies"], f"Test split, {seeds}, 95 % intervals below the means")


if __name__ == "__main__":
    sys.exit(main())
