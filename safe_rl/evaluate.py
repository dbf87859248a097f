"""Evaluate a run's adapter on the test split: what audio gains, what it costs, and whether gate 0 is the plain base.

python -m safe_rl.evaluate
python -m safe_rl.evaluate --run_dir runs/mine --diagnostics
python -m safe_rl.evaluate --config runs/mine/config.yaml --evaluate.questions 2000 --diagnostics
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.command import Advice, run
from safe_rl.config import EvaluateRun
from supervised.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safe_rl.run_folder import RunFolder
    from supervised.data.sample import Sample
    from supervised.safe_model import SafeModel


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.evaluate`; return the exit code."""
    return run(
        evaluate,
        EvaluateRun,
        argv,
        name="evaluate",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(again="the same command starts again", memory="a smaller --outcomes.batch_size"),
    )


def evaluate(config: EvaluateRun) -> None:
    """Write `evaluate.json` and, if asked for, the folder `diagnostics`; nothing is trained."""
    from safe_rl.determinism import prepare
    from safe_rl.pipeline import check_inputs, ensure_adapter, trained_model
    from safe_rl.run_folder import RunFolder

    check_inputs(config)
    if not (Path(config.run_dir) / "stage_a" / "adapter").is_dir():
        raise ConfigError(
            f"{config.run_dir} has no trained adapter; train it first with `python -m safe_rl.train_stage_a "
            f"--run_dir {config.run_dir}`, or give another --run_dir."
        )
    from supervised.data.source import open_split

    with RunFolder(config.run_dir) as folder:
        folder.begin(config, "evaluate", [config.evaluate.seed])
        adapter = ensure_adapter(config, folder)
        prepare(config.evaluate.seed, config.threads)
        model, samples = trained_model(config, adapter), open_split(config.data, "test")
        _evaluate(config, folder, model, samples)
        if config.diagnostics:
            _diagnose(config, folder, model, samples)
        folder.finish()


def _evaluate(config: EvaluateRun, folder: RunFolder, model: SafeModel, samples: Sequence[Sample]) -> None:
    """Answer the whole split, judge the policies that there are, write and print the figures."""
    from safe_rl.evaluating import ask_all, gate_zero, policies_on_test, report
    from supervised.files import write_json

    policies = policies_on_test(config, model)  # first: a table of another adapter is refused before the long part
    outcomes = ask_all(model, samples, config.outcomes.batch_size, config.outcomes.max_new_tokens)
    figures = report(outcomes, config.evaluate.seed)
    figures["gate_zero"] = gate_zero(model, samples, config.outcomes)
    figures["policies"] = policies
    write_json(folder.path / "evaluate.json", figures)
    _tell(figures, folder.path)


def _diagnose(config: EvaluateRun, folder: RunFolder, model: SafeModel, samples: Sequence[Sample]) -> None:
    """Measure what goes on inside, write figures, tables and pictures, and say which monitors fire."""
    from tqdm import tqdm

    from safe_rl.diagnosing import write_diagnosis
    from supervised.diagnostics.diagnosis import diagnose
    from supervised.diagnostics.questions import draw

    settings = config.evaluate
    batches = draw(model, samples, settings.questions, config.outcomes.batch_size, settings.seed)
    with tqdm(desc="diagnostics", unit="pass", disable=None) as bar:

        def tick(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        diagnosis = diagnose(model, batches, settings, tick)
    place = write_diagnosis(folder.path, diagnosis, settings)
    for stress in diagnosis.stress:
        print(f"Monitors, {stress.condition}: {', '.join(stress.fired) or 'none fires'}")
        if not stress.as_expected:
            _warn(f"of {stress.condition}, {', '.join(stress.must_fire) or 'no monitor'} should fire; look at {place}.")
    print(f"Diagnostics: {place}")


def _tell(figures: dict[str, Any], path: Path) -> None:
    """Print the tables, and what stands against shipping the adapter."""
    from safe_rl.evaluating import table_of
    from safe_rl.report import print_table, show

    print_table(table_of(figures))
    if figures["policies"]:
        show(figures["policies"], "Test split, trained policies, 95 % intervals below the means")
    if not figures["gate_zero"]["bit_exact"]:
        _warn("with gate 0 this model is not the base to the bit; do not ship it.")
    print(f"Figures: {path / 'evaluate.json'}")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
