"""Join a language model and a vision encoder to a base that answers about pictures: assemble, then train the projector.

python -m safe_rl.train_bridge
python -m safe_rl.train_bridge --language_model path/to/llama --data.manifest captions.jsonl --run_dir runs/llama
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safe_rl.command import Advice, run
from safe_rl.config import BridgeRun
from supervised.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.train_bridge`; return the exit code."""
    return run(
        train_bridge,
        BridgeRun,
        argv,
        name="train_bridge",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(memory="a smaller --bridge.batch_size"),
    )


def train_bridge(config: BridgeRun) -> None:
    """Assemble the base, train its projector and print where it lies, for `--model.base`."""
    from safe_rl.determinism import prepare
    from safe_rl.run_folder import RunFolder
    from supervised import bridge
    from supervised.assemble import ORIGIN, assemble_llava
    from supervised.data.source import open_split
    from supervised.parts import find_device

    prepare(config.bridge.seed, config.threads)
    find_device(config.device, "device")  # before the long part
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
        _check_origin(json.loads((assembled / ORIGIN).read_text(encoding="utf-8")), config, assembled)
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


def _check_origin(made: dict[str, Any], config: BridgeRun, assembled: Path) -> None:
    """Refuse to go on with what was assembled from something else."""
    given = {
        "language_model": config.language_model,
        "vision_model": config.vision_model,
        "language_revision": config.language_revision,
        "vision_revision": config.vision_revision,
        "seed": config.bridge.seed,
    }
    other = [name for name, value in given.items() if made.get(name) != value]
    if other:
        was, now = (", ".join(f"{name} {values.get(name)}" for name in other) for values in (made, given))
        raise ConfigError(f"{assembled} was joined with {was}, not with {now}; give another --run_dir, or delete it.")


if __name__ == "__main__":
    sys.exit(main())
