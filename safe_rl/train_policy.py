"""Train a policy that decides, per question, whether audio is worth its price; build first whatever is missing.

python -m safe_rl.train_policy
python -m safe_rl.train_policy --config configs/demo.yaml --reward.alpha 0.4 --run_dir runs/cheap
python -m safe_rl.train_policy --table path/to/table --run_dir runs/mine --seeds 3
"""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from safe_rl.command import run
from safe_rl.config import LEARNED, RunConfig
from safe_rl.decisions import write_decisions

if TYPE_CHECKING:
    import numpy as np

    from envs.outcomes import OutcomeTable
    from safe_rl.comparison import Comparison, Report
    from safe_rl.run_folder import RunFolder


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.train_policy`; return the exit code."""
    return run(
        train_policy,
        RunConfig,
        argv,
        name="train_policy",
        description=__doc__,
        folder=lambda config: config.run_dir,
        shared=True,
    )


def train_policy(config: RunConfig) -> None:
    """Train every seed, judge all policies on the test split, and write the run folder."""
    from safe_rl.pipeline import check_inputs, open_table
    from safe_rl.run_folder import RunFolder
    from safe_rl.training import (
        check_policies,
        check_splits,
        claim_policies,
        divided_groups,
        short_curriculum,
        unconstrained,
    )
    from supervised.processes import Processes

    processes, folder = Processes.current(), RunFolder(config.run_dir)
    seeds = list(range(config.seeds))
    check_inputs(config)
    processes.by_main(lambda: check_policies(folder.path / "policies", config))
    with folder:
        processes.by_main(lambda: folder.begin(config, "train_policy", seeds))
        table = open_table(config, folder)
        processes.close()
        if not processes.main:
            return  # policies are so small that one process trains them
        check_splits(table)
        artefact = claim_policies(folder.path / "policies", config, table)
        decisions, chances, warnings = _train_seeds(config, table, folder, seeds)
        warnings[:0] = filter(None, [divided_groups(table), unconstrained(config, table), short_curriculum(config)])
        if table.provenance.get("gate_zero_bit_exact") is False:
            warnings.insert(0, "with gate 0 this model is not the base to the bit; do not ship it.")
        from safe_rl.comparison import compare

        report = compare(table, config.reward, decisions, chances, LEARNED[config.agent])
        write_decisions(folder.path / "decisions.jsonl", table.split("test"), decisions, chances)
        folder.finish(_metrics(config, table, report, seeds, warnings))
        artefact.finish({"seeds": seeds})
        _tell(config, folder, report.policies, warnings)


def _train_seeds(
    config: RunConfig, table: OutcomeTable, folder: RunFolder, seeds: list[int]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return actions int64 [S, n] and probabilities of use float32 [S, n] on the test rows, and warnings."""
    import numpy as np
    from tqdm import tqdm

    from safe_rl.training import finished, outcome_model, steps_done, steps_of, trained

    model, total = cache(partial(outcome_model, table, config)), steps_of(config)
    rows = table.split("test").observation(slice(None))
    decisions, chances, warnings = [], [], []
    for seed in seeds:
        place, part = folder.path / "policies" / f"seed-{seed}", f"seed-{seed}"
        done = 0 if finished(place) else steps_done(place)
        with tqdm(total=total, initial=done, desc=part, unit="step", disable=None) as bar:
            if not finished(place):
                folder.rewind(part, done)

            def record(step: int, values: dict[str, float], part: str = part, bar: Any = bar) -> None:
                folder.record(step, {name: value for name, value in values.items() if name != "step"}, part)
                bar.update(min(step, total) - bar.n)

            policy, told = trained(table, config, seed, place, record, model)
            bar.update(total - bar.n)
        decisions.append(policy.decide(rows))
        chances.append(policy.use_probability(rows))
        if told.get("warning"):
            warnings.append(f"seed {seed}: {told['warning']}")
    return np.stack(decisions), np.stack(chances), warnings


def _metrics(
    config: RunConfig, table: OutcomeTable, report: Report, seeds: list[int], warnings: list[str]
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    return {
        "seeds": seeds,
        "gate_zero_bit_exact": table.provenance.get("gate_zero_bit_exact"),
        **report.as_json(),
        "share_of_audio_gain": report.policies[LEARNED[config.agent]].get("audio_gain_share"),
        "alpha": config.reward.alpha,
        "gamma": config.reward.gamma,
        "limit": config.lagrangian.limit,
        "total_timesteps": config.total_timesteps,
        "table_sha256": table.fingerprint,
        "test_questions": len(table.split("test")),
        "warnings": warnings,
    }


def _tell(config: RunConfig, folder: RunFolder, policies: Comparison, warnings: list[str]) -> None:
    """Draw the picture and print the table, what was gained, and where the files are."""
    from safe_rl.pictures import draw_policies
    from safe_rl.report import show

    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    title = f"Accuracy against latency, test split, alpha {config.reward.alpha:g}, {seeds}"
    draw_policies(policies, folder.path / "accuracy_latency.png", title)
    show(policies, f"Test split, {seeds}, alpha {config.reward.alpha:g}, 95 % intervals below the means")
    if share := policies[LEARNED[config.agent]].get("audio_gain_share"):
        print(f"The policy keeps {100 * share['mean']:.0f} % of what always listening gains on audio questions.")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Figures, decisions, policies and picture: {folder.path}")


if __name__ == "__main__":
    sys.exit(main())
