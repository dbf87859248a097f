"""Train the adapter (Stage A): the frozen base learns to hear, and stays the base where there is nothing to hear.

python -m safe_rl.train_stage_a
python -m safe_rl.train_stage_a --stage_a.steps 300 --run_dir runs/short
"""

from __future__ import annotations

import sys

from safe_rl.command import Advice, run
from safe_rl.config import RunConfig


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.train_stage_a`; return the exit code."""
    return run(
        train_stage_a,
        RunConfig,
        argv,
        name="train_stage_a",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(memory="a smaller --stage_a.batch_size"),
        shared=True,
    )


def train_stage_a(config: RunConfig) -> None:
    """Train the run's adapter, or go on training it; a finished one is left as it is."""
    from safe_rl.pipeline import check_inputs, ensure_adapter
    from safe_rl.run_folder import RunFolder
    from supervised.processes import Processes

    check_inputs(config)
    with RunFolder(config.run_dir) as folder:
        Processes.current().by_main(lambda: folder.begin(config, "train_stage_a", [config.stage_a.seed]))
        adapter = ensure_adapter(config, folder)
        folder.finish()
    print(f"Adapter: {adapter}")


if __name__ == "__main__":
    sys.exit(main())
