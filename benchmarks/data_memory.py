"""What a manifest of many questions costs: memory of the process, seconds to open it, and to read and draw from it.

    python benchmarks/data_memory.py --rows 500000

Writes a manifest with ten answers a question, half of the questions with a picture and a clip, opens it in a fresh
process, splits it, holds a retention buffer out, draws batches of both kinds and reads their samples in random order.
`peak_mb` is the peak resident memory of that process, `imports_mb` what its imports alone take, `sample_us` the time to
read one sample. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH = 64


def write(folder: Path, rows: int) -> Path:
    """Write the manifest and the two empty media files that it names; return its path."""
    for name in ("picture.jpg", "clip.flac"):
        (folder / name).touch()
    generator = random.Random(0)
    words = [f"word{number}" for number in range(5_000)]
    path = folder / f"{rows}.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            retention = number % 2 == 0
            row = {
                "id": f"{'vqav2' if retention else 'musicavqa'}-{number:08d}",
                "question": " ".join(generator.choices(words, k=9)) + "?",
                "answers": generator.choices(words, k=10 if retention else 1),
                "image": "picture.jpg",
                "audio": "clip.flac",
                "retention_set": "vqav2" if retention else None,
                "type": f"Audio/{number % 9}",
                "group": f"group-{number // 4:07d}",
                "split": "test" if number // 4 % 10 == 0 else "adapter",
            }
            file.write(json.dumps(row) + "\n")
    return path


def memory(name: str) -> float:
    """Return what the system counts for this process, in MB: `VmHWM` is the peak, `VmRSS` the present."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def measure(path: str, batches: int) -> dict[str, float]:
    """Open the manifest, draw from it and read; called in a process of its own."""
    import numpy as np

    from supervised.config import DataConfig
    from supervised.data.manifest import Manifest
    from supervised.data.mixture import MixtureSampler, hold_out
    from supervised.data.source import open_split

    imports = memory("VmRSS")
    start = time.perf_counter()
    samples = open_split(DataConfig(manifest=path), "adapter")
    assert isinstance(samples, Manifest)
    opened = time.perf_counter()
    held, rest = hold_out(samples.facts, min(10_000, len(samples) // 10))
    learned = samples.rows(rest)
    sampler = MixtureSampler(learned.facts, BATCH)
    prepared = time.perf_counter()
    kept = memory("VmRSS")
    needs_audio = 0
    for _ in range(batches):
        needs_audio += sum(learned[row].retention_set is None for row in sampler.draw().tolist())
    read = time.perf_counter()
    np.testing.assert_equal(needs_audio, batches * BATCH // 2)
    return {
        "questions": len(samples),
        "held_out": len(held),
        "peak_mb": memory("VmHWM"),
        "imports_mb": imports,
        "kept_mb": kept - imports,
        "opening_s": opened - start,
        "preparing_s": prepared - opened,
        "sample_us": (read - prepared) / (batches * BATCH) * 1e6,
    }


def main() -> None:
    """Write manifests of two sizes, measure each in a fresh process, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="questions of the large manifest")
    parser.add_argument("--small", type=int, default=5_000, help="questions of the small one it is compared to")
    parser.add_argument("--batches", type=int, default=300, help="batches that are drawn and read")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.batches)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for rows in (options.small, options.rows):
            path = write(Path(temporary), rows)
            print(f"{rows:,} questions, {path.stat().st_size / 2**20:.0f} MB of JSON")
            command = [sys.executable, __file__, "--child", str(path), "--batches", str(options.batches)]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            found[rows] = json.loads(lines[-1])
            path.unlink()
    small, large = found[options.small], found[options.rows]
    print(f"{'':<14}{options.small:>12,}{options.rows:>12,}")
    for name in small:
        print(f"{name:<14}{small[name]:>12.1f}{large[name]:>12.1f}")
    print(
        json.dumps(
            {
                "rows": options.rows,
                "peak_mb": round(large["peak_mb"], 1),
                "growth_mb": round(large["peak_mb"] - small["peak_mb"], 1),
                "opening_s": round(large["opening_s"], 2),
                "sample_us": round(large["sample_us"], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
