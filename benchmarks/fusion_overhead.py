"""What hearing costs: passes of a LLaVA with random weights against the plain base pass, in the same run.

    python benchmarks/fusion_overhead.py [--rounds 9] [--threads 1]
    python benchmarks/fusion_overhead.py --scale 7b          # the size of LLaVA-1.5-7B, bfloat16, on a CUDA device

A pass is `generate` of one token at batch size 1: 576 image tokens, 40 text tokens, 8 audio tokens. The base pass is
that of transformers alone and includes the vision tower. A USE decision comes after it, so that its extra latency is
projector, fusion and the second pass; what the encoder heard is given. `prompt` shares the picture's features with the
base pass, `suffix` its key-value cache. In every round each pass runs next to a base pass of its own, before or after
it by turns; figures are medians over the rounds of the ratio of the two. With one thread on a CPU time is that of the
process, so that other programs on the machine do not count.
Prints a table and, as its last line, one JSON object: {"gate_zero": ..., "use_prompt": ..., "use_suffix": ...}; with
--scale 7b also the added milliseconds of a USE decision.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from random_llava import SCALES, question, random_base, safe_models

TARGET_MS = 15.0


def passes(base: Any, scale: str) -> dict[str, Callable[[], Any]]:
    """Return the passes to time, the base pass first."""
    prompt, suffix = safe_models(base, SCALES[scale], ("prompt", "suffix"))
    inputs, audio = question(base)
    images = prompt.encode_images(inputs)
    plain = prompt.generate(inputs, images=images, max_new_tokens=1)

    def use_suffix() -> Any:
        kept = suffix.keep_prefix(inputs, plain)
        return suffix.generate(inputs, audio, prefix=kept, max_new_tokens=1)

    return {
        "base": lambda: base.generate(**inputs, do_sample=False, max_new_tokens=1),
        "no audio": lambda: prompt.generate(inputs, max_new_tokens=1),
        "gate 0": lambda: prompt.generate(inputs, audio, gate=0.0, max_new_tokens=1),
        "USE, prompt": lambda: prompt.generate(inputs, audio, images=images, max_new_tokens=1),
        "USE, suffix": use_suffix,
    }


def timed(calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, list[list[float]]]:
    """Return the milliseconds [rounds, 2] of every call but the first, each beside those of the first next to it."""
    base, *others = calls
    times: dict[str, list[list[float]]] = {name: [] for name in others}
    for call in calls.values():  # warm
        call()
    for number in range(rounds):
        for name in others:
            pair = {}
            for own in (base, name) if number % 2 else (name, base):
                start = clock()
                calls[own]()
                pair[own] = (clock() - start) * 1e3
            times[name].append([pair[name], pair[base]])
    return times


def clock_for(device: str, threads: int) -> Callable[[], float]:
    """Return what tells the time in seconds: the process's on one CPU thread, else the wall clock."""
    if device == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return synchronised
    return time.process_time if threads == 1 else time.perf_counter


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return float(torch.tensor(list(values), dtype=torch.float64).quantile(0.5))


def main() -> None:
    """Time the passes and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small", help="size of the random LLaVA")
    parser.add_argument("--rounds", type=int, default=9, help="runs of every pass")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    options = parser.parse_args()
    large = options.scale == "7b"
    if large and not torch.cuda.is_available():
        sys.exit("--scale 7b needs a CUDA device, and this machine has none; leave it out for the small model.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dtype = ("cuda", torch.bfloat16) if large else ("cpu", torch.float32)
    base = random_base(SCALES[options.scale], device, dtype)
    size = sum(parameter.numel() for parameter in base.parameters()) / 1e6
    times = timed(passes(base, options.scale), options.rounds, clock_for(device, options.threads))
    ratio = {name: median(own / reference for own, reference in pairs) for name, pairs in times.items()}
    machine = torch.cuda.get_device_name() if large else f"CPU, {options.threads} thread(s)"
    precision = str(dtype).removeprefix("torch.")
    print(f"{size:.0f} M parameters, {precision}, {machine}, medians of {options.rounds} rounds")
    print(f"{'pass':<16}{'ms':>10}{'to base':>10}")
    print(f"{'base':<16}{median(reference for pairs in times.values() for _, reference in pairs):>10.1f}{1:>10.3f}")
    for name, pairs in times.items():
        print(f"{name:<16}{median(own for own, _ in pairs):>10.1f}{ratio[name]:>10.3f}")
    figures = {
        "gate_zero": max(ratio["no audio"], ratio["gate 0"]),
        "use_prompt": ratio["USE, prompt"],
        "use_suffix": ratio["USE, suffix"],
    }
    if large:
        added = {f"use_{scope}_ms": median(own for own, _ in times[f"USE, {scope}"]) for scope in ("prompt", "suffix")}
        for name, value in added.items():
            print(f"{name}: {value:.1f} added per USE (target below {TARGET_MS:.0f})")
        figures |= added
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
