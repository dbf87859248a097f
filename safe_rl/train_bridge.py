"""Join a language model and a vision encoder to a base that answers about pictures: assemble, then train the projector.

python -m safe_rl.train_bridge
python -m safe_rl.train_bridge --language_model path/to/llama --data.manifest captions.jsonl --run_dir runs/llama
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safe_rl.command import run
from safe_rl.config import BridgeRun
from supervised.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.train_bridge`; return the exit code."""
    return run(
        train_bridge, BridgeRun, argv, name="train_bridge", description=__doc__, folder=lambda config: config.run_dir
    )


def train_bridge(config: BridgeRun) -> None:
    """Assemble the base, train its projector and print where it lies, for `--model.base`."""
    from safe_rl.determinism import prepare
    from safe_rl.run_folder import RunFolder
    from supervised import bridge
    from supervised.assemble import ORIGIN, assemble_llava
    from supervised.data.source import open_split

    prepare(config.bridge.seed, config.threads)
    samples = open_split(config.data, "adapter")
    with RunFolder(config.run_dir) as folder:
        folder.begin(config, "train_bridge", [config.bridge.seed])
        assembled = Path(config.run_dir) / "assembled"
        if not assembled.is_dir():
            print(f"Bridge: joining {config.language_model} and {config.vision_model} in {assembled}")
            assemble_llava(
                config.language_model,
                config.vision_model,
                assembled,
                config.bridge.seed,
                config.language_revision,
                config.vision_revision,
            )
        made = json.loads((assembled / ORIGIN).read_text(encoding="utf-8"))
        if any(made[name] != getattr(config, name) for name in ("language_model", "vision_model")):
            raise ConfigError(
                f"{assembled} was joined of {made['language_model']} and {made['vision_model']}, not of those given; "
                "give another --run_dir, or delete it."
            )
        base = bridge.train_bridge(
            assembled,
            samples,
            config.bridge,
            Path(config.run_dir) / "bridge",
            resume=config.resume,
            progress=sys.stderr.isatty(),
            device=config.device,
        )
        folder.finish()
    print(f"Base: {base}")


if __name__ == "__main__":
    sys.exit(main())
