"""What every part of Stage A is worth: it is left out, or put in, and the rest is trained and measured as before.

    python benchmarks/stage_a_ablations.py [--variants default "null space"] [--seeds 5] [--workers 2] [--out FILE]

Each variant is trained on SoundScenes with the settings of the demo but for what its name says, once per seed (of the
adapter and of the order of the questions; the questions are the same). Measured are the test questions, with the gate
at 1: the score on those that need audio (`audio`: the sounds alone; `av`: sounds and picture; `hearing`: both) and on
retention questions with irrelevant audio (`vl`), each less the base's on the same questions, in points; and that gate 0
is the base, bit for bit. A variant and seed that the file has already is not trained again.
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
from supervised.stage_a.config import AudioCurriculumConfig, LossConfig

NO_ANCHOR: dict[str, Any] = {"distill": 0.0, "feature": 0.0, "fisher": 0.0}


def variants(run: RunConfig) -> dict[str, RunConfig]:
    """Return the configuration of every variant by its name; the first is that of the demo."""

    def model(part: str, **values: Any) -> RunConfig:
        return replace(run, model=replace(run.model, **{part: replace(getattr(run.model, part), **values)}))

    def stage_a(**values: Any) -> RunConfig:
        return replace(run, stage_a=replace(run.stage_a, **values))

    def loss(**values: Any) -> LossConfig:
        return replace(run.stage_a.loss, **values)

    stages = AudioCurriculumConfig(shares=(0.25, 0.5, 0.75, 1.0))
    phases = (0.1, 0.6, 0.3)
    often = run.stage_a.steps // 5  # a stage needs an evaluation
    guarded = replace(run.stage_a.guard, null_space=0.9)
    alone = replace(run.stage_a, loss=loss(**NO_ANCHOR))
    ungated = model("fusion", kind="lora")
    tokens = model("fusion", injection="tokens")
    naive = replace(run.stage_a, train_base=True, loss=loss(**NO_ANCHOR))
    return {
        "default": run,
        "without distillation": stage_a(loss=loss(distill=0.0)),
        "without feature term": stage_a(loss=loss(feature=0.0)),
        "nothing holds the base": replace(run, stage_a=alone),
        "with Fisher": stage_a(loss=loss(fisher=10.0), phases=phases),
        "with phases": stage_a(phases=phases),
        "with curriculum": stage_a(curriculum=stages, eval_every=often),
        "with phases and curriculum": stage_a(phases=phases, curriculum=stages, eval_every=often),
        "with all three": stage_a(loss=loss(fisher=10.0), phases=phases, curriculum=stages, eval_every=often),
        "null space": stage_a(guard=guarded),
        "null space alone": replace(run, stage_a=replace(alone, guard=guarded)),
        "null space alone, no gate": replace(ungated, stage_a=replace(alone, guard=guarded)),
        "nothing holds, no gate": replace(ungated, stage_a=alone),
        "without a gate": ungated,
        "null space, no gate": replace(ungated, stage_a=replace(run.stage_a, guard=guarded)),
        "cross-attention": model("fusion", kind="cross_attention"),
        "block": model("fusion", kind="block"),
        "at two layers": model("fusion", layers=(0, 2), residual="per_layer"),
        "resampler": model("projector", kind="resampler"),
        "without RMS match": model("fusion", rms_match=False),
        "4 tokens": model("projector", tokens=4),
        "16 tokens": model("projector", tokens=16),
        "rank 4": model("fusion", lora_rank=4),
        "rank 16": model("fusion", lora_rank=16),
        "concatenation": tokens,
        "silent audio": replace(run, data=replace(run.data, preprocess=replace(run.data.preprocess, silence=True))),
        "naive fine-tuning": replace(tokens, stage_a=naive),
    }


def measure(name: str, config: RunConfig, seed: int) -> dict[str, Any]:
    """Train one variant with one seed and return its figures on the test questions, in points."""
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
    evaluation.check_gate_zero()
    scores, _ = evaluation.score_all(hear=True)
    base: dict[str, list[float]] = {}
    heard: dict[str, list[float]] = {}
    for question, before, after in zip(evaluation.examples.questions, evaluation.base_scores, scores, strict=True):
        family = question.type.partition("/")[0]  # audio, av or vl
        for kind in {family, "vl" if question.retention_set else "hearing"}:
            base.setdefault(kind, []).append(before)
            heard.setdefault(kind, []).append(after)
    figures = {"variant": name, "seed": seed, "best_step": result.best_step, "minutes": minutes}
    for kind in base:
        figures[kind] = 100 * (mean(heard[kind]) - mean(base[kind]))
        figures[f"base_{kind}"] = 100 * mean(base[kind])
    return figures


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
    kinds = ("audio", "av", "hearing", "vl")
    print(f"{'variant':<26}{'seeds':>6}" + "".join(f"{kind:>16}" for kind in kinds))
    summary: dict[str, Any] = {}
    names = {each["variant"] for each in found}
    for name in [name for name in variants(RunConfig()) if name in names]:
        of_it = [each for each in found if each["variant"] == name]
        spread = {
            kind: (mean(each[kind] for each in of_it), stdev([each[kind] for each in of_it]) if len(of_it) > 1 else 0.0)
            for kind in kinds
        }
        cells = (f"{middle:+.2f} ± {around:.2f}" for middle, around in spread.values())
        print(f"{name:<26}{len(of_it):>6}" + "".join(f"{cell:>16}" for cell in cells))
        summary[name] = {kind: [round(value, 3) for value in pair] for kind, pair in spread.items()}
        summary[name] |= {"seeds": len(of_it), "base": {kind: round(of_it[0][f"base_{kind}"], 2) for kind in kinds}}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
