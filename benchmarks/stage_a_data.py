"""What Stage A's questions cost where they do not fit into memory: memory, and the share of step time spent waiting.

    python benchmarks/stage_a_data.py [--rows 500000] [--steps 200] [--timed 40] [--threads 1] [--device cpu]

A manifest of `--rows` questions is written, half of which need audio; its pictures and clips of 2 s are 256 small files
that many questions share. In a fresh process it is opened, the model of the demo is loaded, and as many batches of 64
as `--steps` steps take are drawn and made ready from files. `memory_mb` is the peak resident memory of that process,
`growth_mb` what it is above that after the model was loaded.

In other processes, steps of Stage A (forward, both losses, backward, AdamW) are taken on streamed batches without and
with two batches read ahead, once with every clip encoded (`encoded`) and once with what the encoder said taken from
`model.feature_cache` (`cached`). `wait_share` is the share of the time of all steps in which the next batch was not
ready; the first step, which has nobody to hide behind, counts in. `step_s` is wall time, `cpu_s` the processor's: where
other work leaves no core free, less waiting does not make `step_s` smaller. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_memory import memory

BATCH = 64
MEDIA = 256
RATE = 16_000


def write(folder: Path, rows: int) -> Path:
    """Write media and manifest; return its path."""
    import soundfile
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(MEDIA):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * np.arange(2 * RATE) / RATE)
        soundfile.write(folder / f"{number}.flac", (0.3 * tone).astype(np.float32), RATE)
    path = folder / "questions.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            retention = number % 2 == 1
            row = {
                "id": f"{'vqav2' if retention else 'musicavqa'}-{number:08d}",
                "question": "what colour is the object ?" if retention else "which sound can you hear ?",
                "answers": ["red"] * 10 if retention else ["dog"],
                "image": f"{rng.integers(MEDIA)}.png",
                "audio": f"{rng.integers(MEDIA)}.flac",
                "retention_set": "vqav2" if retention else None,
                "type": f"Audio/{number % 9}",
                "group": f"group-{number // 4:07d}",
                "split": "adapter",
            }
            file.write(json.dumps(row) + "\n")
    return path


def load(path: str, options: argparse.Namespace, cache: bool) -> tuple[Any, Any]:
    """Return the streamed examples and a sampler of them, and note the memory after the model was loaded."""
    import torch

    from supervised.config import DataConfig, ModelConfig
    from supervised.data.mixture import MixtureSampler
    from supervised.data.source import open_split
    from supervised.safe_model import SafeModel
    from supervised.stage_a.examples import Examples

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    folder = str(Path(path).parent / "features") if cache else None
    model = SafeModel.attach(ModelConfig(feature_cache=folder, device=options.device))
    options.loaded_mb = memory("VmRSS")
    samples = open_split(DataConfig(manifest=path), "adapter")
    examples = Examples(model, samples, range(len(samples)), lambda _: None)
    return examples, MixtureSampler(examples.facts, BATCH)


def measure_memory(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """Open the manifest and make batches ready."""
    from supervised.stage_a.reading import AHEAD, Reader

    start = time.perf_counter()
    examples, sampler = load(path, options, cache=True)
    opened = time.perf_counter()
    with Reader(sampler, examples.batch, ahead=0 if examples.kept else AHEAD) as reader:
        halfway = 0.0
        for step in range(options.steps):
            next(reader)
            if step == options.steps // 2:
                halfway = memory("VmRSS")
    return {
        "questions": len(examples),
        "kept": examples.kept,
        "memory_mb": round(memory("VmHWM")),
        "growth_mb": round(memory("VmHWM") - options.loaded_mb),
        "second_half_mb": round(memory("VmRSS") - halfway),
        "opening_s": round(opened - start, 1),
        "batch_s": round((time.perf_counter() - opened) / options.steps, 3),
    }


def measure_waiting(path: str, options: argparse.Namespace, ahead: int, cache: bool) -> dict[str, float]:
    """Take steps; return the seconds of a step and the share of them in which the model waited."""
    import torch

    from supervised.losses import IGNORED, distillation_loss, task_loss
    from supervised.stage_a.config import StageAConfig
    from supervised.stage_a.reading import Reader
    from supervised.stage_a.schedule import parameter_groups

    examples, sampler = load(path, options, cache)
    assert not examples.kept
    if cache:  # so that it holds what will be asked for
        examples.model.encode_audio([Path(path).parent / f"{number}.flac" for number in range(MEDIA)])
    config = StageAConfig()
    optimizer = torch.optim.AdamW(parameter_groups(examples.model.adapter, config))
    examples.batch(range(16))  # what is done once only
    with Reader(sampler, examples.batch, ahead=ahead) as reader:
        start, used = time.perf_counter(), time.process_time()
        for _ in range(options.timed):
            batch, _ = next(reader)
            retention = batch.retention[:, None]  # (B, 1)
            with torch.no_grad():
                plain = examples.logits(batch, None, 0.0).float()
            logits = examples.logits(batch, batch.audio, 1.0)  # (B, K, V)
            mask = (batch.labels != IGNORED) & retention  # (B, K)
            loss = task_loss(logits, batch.labels.masked_fill(retention, IGNORED))
            loss = loss + distillation_loss(logits, plain, mask, config.loss.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()  # a GPU has finished
        seconds, used = time.perf_counter() - start, time.process_time() - used
        return {
            "step_s": round(seconds / options.timed, 3),
            "cpu_s": round(used / options.timed, 3),
            "wait_share": round(reader.waited / seconds, 3),
        }


def child(path: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--child", path, "--what", what]
    for name in ("steps", "timed", "threads", "device"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the manifest, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="questions of the manifest")
    parser.add_argument("--steps", type=int, default=200, help="batches that are made ready for the memory")
    parser.add_argument("--timed", type=int, default=40, help="steps that are timed")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    parser.add_argument("--device", default="cpu", help="where the model runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        if options.what == "memory":
            print(json.dumps(measure_memory(options.child, options)))
        else:
            ahead, features = options.what.split("-")
            print(json.dumps(measure_waiting(options.child, options, int(ahead), features == "cached")))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        path = str(write(Path(temporary), options.rows))
        found |= child(path, "memory", options)
        print(f"memory: {found}")
        smaller = Path(path)  # opening takes the same time in each process: the steps need not many questions
        smaller.write_text("".join(smaller.open().readlines()[: min(options.rows, 100_000)]))
        for features in ("encoded", "cached"):
            for ahead in (0, 2):
                result = child(path, f"{ahead}-{features}", options)
                print(f"{features}, {ahead} ahead: {result}")
                found[f"{features}_{ahead}_ahead"] = result
    print(json.dumps({"threads": options.threads, "device": options.device, **found}))


if __name__ == "__main__":
    main()
