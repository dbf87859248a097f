"""Make the demo's tiny models again: a vision-language model and an audio encoder, from generated scenes and sounds.

python -m safe_rl.pretrain_demo
python -m safe_rl.pretrain_demo --pretrain.recordings path/to/esc10 --out_dir runs/weights
"""

from __future__ import annotations

import sys
from pathlib import Path

from safe_rl.command import Advice, run
from safe_rl.config import PretrainDemoConfig


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.pretrain_demo`; return the exit code."""
    return run(
        pretrain_demo,
        PretrainDemoConfig,
        argv,
        name="pretrain_demo",
        description=__doc__,
        folder=lambda config: config.out_dir,
        advice=Advice(
            again="the same command starts again",
            elsewhere="--out_dir",
            memory="a smaller --pretrain.encoder.batch_size or --pretrain.base.batch_size",
        ),
    )


def pretrain_demo(config: PretrainDemoConfig) -> None:
    """Train both models into the output folder and print what they reach."""
    from safe_rl.determinism import prepare
    from safe_rl.options import existing_folder
    from supervised.demo.pretrain import pretrain

    if config.pretrain.recordings is not None:
        existing_folder(
            config.pretrain.recordings, "pretrain.recordings", "give the folder of ESC-10 or ESC-50, or leave it out."
        )
    prepare(config.pretrain.base.seed)
    figures = pretrain(config.pretrain, Path(config.out_dir), print)
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(f"Weights: {config.out_dir}")


if __name__ == "__main__":
    sys.exit(main())
