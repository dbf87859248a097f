"""What every part of Stage A is worth: it is left out, and the rest is trained and measured as before.

    python benchmarks/stage_a_ablations.py [--variants whole naive] [--seeds 5] [--workers 2] [--out FILE]

Each variant is trained on SoundScenes with the settings of the demo but for what its name says, once per seed (of the
adapter and of the order of the questions; the questions are the same). Measured are the test questions, with the gate
at 1: accuracy on those that need audio, and the score on retention questions with irrelevant audio; the base's on the
same questions beside them. A variant and seed that the file has already is not trained again.
Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from safe_rl.config import RunConfig

NO_ANCHOR = {"distill": 0.0, "feature": 0.0, "fisher": 0.0}


def variants(run: RunConfig) -> dict[str, RunConfig]:
    """Return the configuration of every variant by its name; the first is the whole method."""

    def model(part: str, **values: Any) -> RunConfig:
        return replace(run, model=replace(run.model, **{part: replace(getattr(run.model, part), **values)}))

    def loss(**values: float) -> RunConfig:
        return replace(run, stage_a=replace(run.stage_a, loss=replace(run.stage_a.loss, **values)))

    concatenated = model("fusion", injection="tokens")
    naive = replace(concatenated.stage_a, train_base=True, loss=replace(run.stage_a.loss, **NO_ANCHOR))
    silence = replace(run.data.preprocess, silence=True)
    return {
        "whole": run,
        "without distillation": loss(distill=0.0),
        "without feature term": loss(feature=0.0),
        "without Fisher": loss(fisher=0.0),
        "nothing holds the base": loss(**NO_ANCHOR),
        "without curriculum": replace(
            run, stage_a=replace(run.stage_a, curriculum=replace(run.stage_a.curriculum, shares=()))
        ),
        "without phases": replace(run, stage_a=replace(run.stage_a, phases=(0.0, 1.0, 0.0))),
        "without RMS match": model("fusion", rms_match=False),
        "4 tokens": model("projector", tokens=4),
        "16 tokens": model("projector", tokens=16),
        "rank 4": model("fusion", lora_rank=4),
        "rank 16": model("fusion", lora_rank=16),
        "null space": replace(run, stage_a=replace(run.stage_a, guard=replace(run.stage_a.guard, null_space=0.9))),
        "concatenation": concatenated,
        "silent audio": replace(run, data=replace(run.data, preprocess=silence)),
        "naive fine-tuning": replace(concatenated, stage_a=naive),
    }


def measure(name: str, config: RunConfig, seed: int) -> dict[str, Any]:
    """Train one variant with one seed and return its figures on the test questions, in points."""
    import torch
    import transformers

    from safe_rl.determinism import prepare
    from supervised.data.source import open_split
    from supervised.safe_model import SafeModel
    from supervised.stage_a.evaluation import Evaluation
    from supervised.stage_a.examples import Examples
    from supervised.stage_a.training import train_stage_a

    transformers.logging.disable_progress_bar()
    stage_a = replace(config.stage_a, seed=seed)
    prepare(seed, 1)
    model = SafeModel.attach(config.model)
    test = open_split(config.data, "test")
    # Asked before the training, so that a base that is trained has answered as it was.
    evaluation = Evaluation(Examples(model, test, range(len(test)), lambda _: None), frozen=not stage_a.train_base)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train, validation = open_split(config.data, "adapter"), open_split(config.data, "validation")
        result = train_stage_a(model, train, validation, stage_a, folder, progress=False)
    minutes = (time.perf_counter() - begun) / 60
    with torch.no_grad():
        figures = evaluation()
    return {
        "variant": name,
        "seed": seed,
        "gain": 100 * (figures["audio_accuracy"] - evaluation.base["audio_accuracy"]),
        "drop": 100 * figures["drop"],
        "audio_accuracy": 100 * figures["audio_accuracy"],
        "base_audio_accuracy": 100 * evaluation.base["audio_accuracy"],
        "retention": 100 * figures["retention_score"],
        "base_retention": 100 * evaluation.base["retention_score"],
        "best_step": result.best_step,
        "minutes": minutes,
    }


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = variants(RunConfig())
    parser.add_argument("--variants", nargs="+", default=list(known), choices=list(known), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of every variant")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, one core each")
    parser.add_argument("--steps", type=int, default=RunConfig().stage_a.steps, help="steps of Stage A at most")
    parser.add_argument("--out", type=Path, default=Path("runs/stage_a_ablations.jsonl"), help="file of the figures")
    options = parser.parse_args()
    base = RunConfig()
    known = variants(replace(base, stage_a=replace(base.stage_a, steps=options.steps)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    found = [json.loads(line) for line in lines]
    done = {(each["variant"], each["seed"]) for each in found if each["steps"] == options.steps}
    missing = [(name, seed) for seed in range(options.seeds) for name in options.variants if (name, seed) not in done]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        running = [pool.submit(measure, name, known[name], seed) for name, seed in missing]
        for future in as_completed(running):
            figures = future.result() | {"steps": options.steps}
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")
            found.append(figures)
            print(f"{figures['variant']}, seed {figures['seed']}: {figures['minutes']:.1f} minutes", flush=True)
    report([each for each in found if each["steps"] == options.steps and each["variant"] in options.variants])


def report(found: list[dict[str, Any]]) -> None:
    """Print a line per variant: means and standard deviations over its seeds."""
    print(f"{'variant':<26}{'seeds':>6}{'audio gain':>18}{'drop at gate 1':>18}{'accuracy':>10}{'base':>7}")
    summary: dict[str, Any] = {}
    names = {each["variant"] for each in found}
    for name in [name for name in variants(RunConfig()) if name in names]:
        of_it = [each for each in found if each["variant"] == name]
        spread = {
            key: (mean(each[key] for each in of_it), stdev([each[key] for each in of_it]) if len(of_it) > 1 else 0.0)
            for key in ("gain", "drop", "audio_accuracy", "base_audio_accuracy")
        }
        gain, drop = (f"{spread[key][0]:+.2f} ± {spread[key][1]:.2f}" for key in ("gain", "drop"))
        print(
            f"{name:<26}{len(of_it):>6}{gain:>18}{drop:>18}{spread['audio_accuracy'][0]:>10.1f}"
            f"{spread['base_audio_accuracy'][0]:>7.1f}"
        )
        summary[name] = {key: round(value[0], 3) for key, value in spread.items()} | {"seeds": len(of_it)}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
