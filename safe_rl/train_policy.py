"""Train a policy that decides, per question, whether audio is worth its price; build first whatever is missing.

python -m safe_rl.train_policy
python -m safe_rl.train_policy --config configs/demo.yaml --reward.alpha 0.4 --run_dir runs/cheap
python -m safe_rl.train_policy --table path/to/table --run_dir runs/mine --seeds 3
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.command import run
from safe_rl.config import RunConfig

if TYPE_CHECKING:
    import numpy as np

    from envs.outcomes import OutcomeTable
    from safe_rl.comparison import Comparison
    from safe_rl.run_folder import RunFolder

UNITS = {
    "accuracy": "mean score, as a fraction",
    "audio_accuracy": "mean score on questions that need audio, as a fraction",
    "retention_score": "mean score on questions that need none, as a fraction",
    "drop": "the base's score minus the achieved one on questions that need none, as a fraction: 0.003 is 0.3 points",
    "harm": "share of questions that need none where the base was right and the achieved answer is wrong",
    "usage": "share of questions on which audio is used",
    "latency_ms": "milliseconds per question",
    "utility": "mean reward at the final alpha and gamma",
    "audio_gain_share": "gain in audio_accuracy over never, as a share of the gain of always",
}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.train_policy`; return the exit code."""
    return run(
        train_policy, RunConfig, argv, name="train_policy", description=__doc__, folder=lambda config: config.run_dir
    )


def train_policy(config: RunConfig) -> None:
    """Train every seed, judge all policies on the test split, and write the run folder."""
    from safe_rl.pipeline import check_inputs, open_table
    from safe_rl.run_folder import RunFolder
    from safe_rl.training import check_policies, check_splits, claim_policies, short_curriculum

    folder = RunFolder(config.run_dir)
    seeds = list(range(config.seeds))
    check_inputs(config)
    check_policies(folder.path / "policies", config)
    with folder:
        folder.begin(config, "train_policy", seeds)
        table = open_table(config, folder)
        check_splits(table)
        artefact = claim_policies(folder.path / "policies", config, table)
        decisions, chances, warnings = _train_seeds(config, table, folder, seeds)
        if told := short_curriculum(config):
            warnings.insert(0, told)
        if table.provenance.get("gate_zero_bit_exact") is False:
            warnings.insert(0, "with gate 0 this model is not the base to the bit; do not ship it.")
        from safe_rl.comparison import compare

        policies = compare(table, config.reward, decisions)
        _write_decisions(folder.path / "decisions.jsonl", table, decisions, chances)
        folder.finish(_metrics(config, table, policies, seeds, warnings))
        artefact.finish({"seeds": seeds})
        _tell(config, folder, policies, warnings)


def _train_seeds(
    config: RunConfig, table: OutcomeTable, folder: RunFolder, seeds: list[int]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return actions int64 [S, n] and probabilities of use float32 [S, n] on the test rows, and warnings."""
    import numpy as np
    from tqdm import tqdm

    from safe_rl.training import finished, steps_done, trained

    rows = table.split("test").observation(slice(None))
    decisions, chances, warnings = [], [], []
    for seed in seeds:
        place, part = folder.path / "policies" / f"seed-{seed}", f"seed-{seed}"
        done = 0 if finished(place) else steps_done(place)
        with tqdm(total=config.total_timesteps, initial=done, desc=part, unit="step", disable=None) as bar:
            if not finished(place):
                folder.rewind(part, done)

            def record(step: int, values: dict[str, float], part: str = part, bar: Any = bar) -> None:
                folder.record(step, {name: value for name, value in values.items() if name != "step"}, part)
                bar.update(min(step, config.total_timesteps) - bar.n)

            policy, told = trained(table, config, seed, place, record)
            bar.update(config.total_timesteps - bar.n)
        decisions.append(policy.decide(rows))
        chances.append(policy.use_probability(rows))
        if told.get("warning"):
            warnings.append(f"seed {seed}: {told['warning']}")
    return np.stack(decisions), np.stack(chances), warnings


def _write_decisions(path: Path, table: OutcomeTable, decisions: np.ndarray, chances: np.ndarray) -> None:
    """Write one line per test question, with one entry per seed."""
    from supervised.files import write_text

    lines = (
        json.dumps({"id": str(name), "use_probability": chance, "action": action})
        for name, chance, action in zip(
            table.split("test").ids, chances.T.astype(float).round(6).tolist(), decisions.T.tolist(), strict=True
        )
    )
    write_text(path, "\n".join(lines) + "\n")


def _metrics(
    config: RunConfig, table: OutcomeTable, policies: Comparison, seeds: list[int], warnings: list[str]
) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    return {
        "seeds": seeds,
        "gate_zero_bit_exact": table.provenance.get("gate_zero_bit_exact"),
        "policies": policies,
        "share_of_audio_gain": policies["ppo_lagrangian"].get("audio_gain_share"),
        "alpha": config.reward.alpha,
        "gamma": config.reward.gamma,
        "limit": config.lagrangian.limit,
        "total_timesteps": config.total_timesteps,
        "table_sha256": table.fingerprint,
        "test_questions": len(table.split("test")),
        "units": UNITS,
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
    if share := policies["ppo_lagrangian"].get("audio_gain_share"):
        print(f"The policy keeps {100 * share['mean']:.0f} % of what always listening gains on audio questions.")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Figures, decisions, policies and picture: {folder.path}")


if __name__ == "__main__":
    sys.exit(main())
