"""Build the outcome table, the score and the latency of every action on every question; first the adapter, if missing.

python -m safe_rl.build_outcomes
python -m safe_rl.build_outcomes --data.test 1000 --run_dir runs/small
"""

from __future__ import annotations

import sys

from safe_rl.command import Advice, run
from safe_rl.config import RunConfig
from supervised.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.build_outcomes`; return the exit code."""
    return run(
        build_outcomes,
        RunConfig,
        argv,
        name="build_outcomes",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(memory="a smaller --stage_a.batch_size or --outcomes.batch_size"),
        shared=True,
    )


def build_outcomes(config: RunConfig) -> None:
    """Build the run's table, or go on building it; a finished one is verified and left as it is."""
    from safe_rl.pipeline import check_inputs, open_table
    from safe_rl.run_folder import RunFolder
    from supervised.processes import Processes

    if config.table is not None:
        raise ConfigError(f"table: {config.table} is given, but this command builds one; leave --table out.")
    check_inputs(config)
    with RunFolder(config.run_dir) as folder:
        Processes.current().by_main(lambda: folder.begin(config, "build_outcomes", [config.data.seed]))
        table = open_table(config, folder)
        folder.finish()
    rows = ", ".join(f"{name} {count}" for name, count in table.splits.items())
    print(f"Outcome table: {table.directory} ({rows}; latency unit {table.latency_unit_ms:.2f} ms)")


if __name__ == "__main__":
    sys.exit(main())
