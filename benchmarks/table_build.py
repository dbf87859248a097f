"""Speed of the table build against two plain `generate` calls a row, on the demo model, in the same run.

    python benchmarks/table_build.py [--rows 256]

The reference answers every question twice at batch size 1, without audio and with it, as a plain script would: the
picture is encoded twice, the clip once. The build does more (features, previews, files) and shares what can be shared.
Prints a table and, as its last line, one JSON object: {"speedup": reference seconds / build seconds, ...}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from envs.build import build_table
from envs.config import OutcomesConfig
from envs.measure import measure
from supervised.config import DataConfig, ModelConfig
from supervised.demo.scenes import SoundScenes
from supervised.safe_model import SafeModel


def plain_seconds(model: SafeModel, samples: list[Any], max_new_tokens: int) -> float:
    """Return the time of two `generate` calls a row."""
    start = time.perf_counter()
    for sample in samples:
        inputs = model.inputs([sample])
        audio = model.encode_audio([sample.audio])
        for heard in (None, audio):
            model.decode(model.generate(inputs, heard, max_new_tokens=max_new_tokens), inputs)
    return time.perf_counter() - start


def build_seconds(model: SafeModel, samples: list[Any], config: OutcomesConfig) -> float:
    """Return the time of a whole build, its files, checks and checksums included; the profile was measured before."""
    profile = measure(model, samples[:4], config)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_table(model, {"train": samples}, config, Path(folder) / "table", profile=profile)
        return time.perf_counter() - start


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="questions to answer")
    rows = parser.parse_args().rows
    model = SafeModel.attach(ModelConfig())
    config = OutcomesConfig(latency_repeats=3)
    scenes = SoundScenes(DataConfig(train=rows), "train")
    samples = [scenes[index] for index in range(rows)]  # rendered before, for both alike
    plain_seconds(model, samples[:4], config.max_new_tokens)  # warm
    reference = plain_seconds(model, samples, config.max_new_tokens)
    build = build_seconds(model, samples, config)
    print(f"{'':<28}{'seconds':>9}{'ms/row':>9}")
    for name, seconds in (("two generate calls a row", reference), ("table build", build)):
        print(f"{name:<28}{seconds:>9.2f}{seconds / rows * 1e3:>9.2f}")
    print(json.dumps({"speedup": reference / build, "rows": rows}))


if __name__ == "__main__":
    main()
