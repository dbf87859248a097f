"""Stage A on real recordings, fold by fold: what the adapter hears in clips of a fold that nothing was trained on.

    python benchmarks/esc10_folds.py --recordings path/to/esc10 [--folds 1 2 3] [--steps N] [--workers 2] [--out FILE]

The folder has the ESC-10 or ESC-50 layout. Of every fold the sounds of the test questions are cut; of the fold before
it, in a circle, nothing is used (it is that of certificates); audio encoder and adapter learn from the three others,
the best step is chosen on those as well. The encoder that ships has heard folds 1 to 3, so that each fold gets one of
its own, of `--encoder_steps` steps; with 0 of them the one that ships is taken, and folds 1 to 3 are then not unheard.

Measured on the test questions, with the gate at 1: accuracy on *audio* and *av* questions, the base's without audio
beside it, the drop on *vl* questions, which hear something irrelevant; and the share of questions whose logits with
the gate at 0, audio at hand, are those that the base gave before the training, bit for bit. A fold that the file has
already, of the same steps, is not trained again. Prints a table and, as its last line, one JSON object.
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

COLUMNS = ("audio", "base_audio", "av", "base_av", "vl", "base_vl", "gain", "drop", "gate_zero", "encoder")
"""Figures of a fold, in points; `gain` is over audio and av questions together, `encoder` names single recordings."""
KINDS = ("audio", "av", "vl")


def measure(config: RunConfig, encoder_steps: int, encoder_clips: int) -> dict[str, Any]:
    """Train encoder and adapter without fold `config.data.test_fold`, and return its figures, in points."""
    import transformers

    from safe_rl.determinism import prepare
    from supervised.data.source import open_split
    from supervised.demo import ENCODER
    from supervised.demo.config import EncoderPretraining
    from supervised.demo.figures import recorded_clips
    from supervised.demo.pretrain_encoder import pretrain_encoder, zero_shot_accuracy
    from supervised.demo.recordings import split_folds
    from supervised.encoders.clap import FastClapExtractor
    from supervised.safe_model import SafeModel
    from supervised.stage_a.evaluation import Evaluation
    from supervised.stage_a.examples import Examples
    from supervised.stage_a.training import train_stage_a

    transformers.logging.disable_progress_bar()
    fold, recordings = config.data.test_fold, str(config.data.recordings)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepare(config.stage_a.seed, 1)
        encoder = ENCODER
        if encoder_steps:
            encoder = Path(folder) / "encoder"
            settings = EncoderPretraining(
                clips=encoder_clips, steps=encoder_steps, folds=split_folds("adapter", fold), seed=fold
            )
            pretrain_encoder(settings, recordings, encoder, lambda line: None)
        clips = recorded_clips(recordings, fold, FastClapExtractor.from_pretrained(encoder))
        model = SafeModel.attach(replace(config.model, encoder=str(encoder)))
        test = open_split(config.data, "test")
        evaluation = Evaluation(Examples(model, test, range(len(test)), lambda _: None))
        before = gate_zero(evaluation.examples, hear=False)
        train, validation = open_split(config.data, "adapter"), open_split(config.data, "validation")
        result = train_stage_a(model, train, validation, config.stage_a, Path(folder) / "run", progress=False)
        after = gate_zero(evaluation.examples, hear=True)
        named = zero_shot_accuracy(encoder, clips)
    scores, _ = evaluation.score_all(hear=True)
    kinds = [question.type.partition("/")[0] for question in evaluation.examples.questions]
    figures = {}
    for name, each in (("", scores), ("base_", evaluation.base_scores)):
        for kind in KINDS:
            figures[name + kind] = mean(score for score, of_kind in zip(each, kinds, strict=True) if of_kind == kind)
        figures[f"{name}hearing"] = mean(score for score, kind in zip(each, kinds, strict=True) if kind != "vl")
    figures["gain"] = figures["hearing"] - figures["base_hearing"]
    figures["drop"] = figures["base_vl"] - figures["vl"]
    figures["gate_zero"] = mean(float(now == then) for now, then in zip(after, before, strict=True))
    figures["encoder"] = named
    return {
        "fold": fold,
        **{name: 100 * figures[name] for name in COLUMNS},
        "questions": {kind: kinds.count(kind) for kind in KINDS},
        "best_step": result.best_step,
        "minutes": (time.perf_counter() - begun) / 60,
    }


def gate_zero(examples: Any, hear: bool) -> list[bytes]:
    """Return the bytes of every question's logits with the gate at 0, with its audio at hand or without."""
    import torch

    from supervised.diagnostics.recording import bits

    told = []
    with torch.no_grad():
        for start in range(0, len(examples), 128):
            batch = examples.batch(range(start, min(start + 128, len(examples))))
            logits = examples.logits(batch, batch.audio if hear else None, 0.0)  # (B, K, V)
            told += [row.numpy().tobytes() for row in bits(logits)]
    return told


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True, help="folder in the ESC-10 or ESC-50 layout")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5], choices=range(1, 6), metavar="N")
    parser.add_argument("--steps", type=int, default=RunConfig().stage_a.steps, help="steps of Stage A at most")
    parser.add_argument("--encoder_steps", type=int, default=3000, help="steps of a fold's own encoder; 0: the shipped")
    parser.add_argument("--encoder_clips", type=int, default=18_000, help="clips in its training pool")
    parser.add_argument("--workers", type=int, default=2, help="folds at once, one core each")
    parser.add_argument("--out", type=Path, default=Path("runs/esc10_folds.jsonl"), help="file of the figures")
    options = parser.parse_args()
    run = RunConfig()
    settings = {name: getattr(options, name) for name in ("steps", "encoder_steps", "encoder_clips")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    found = [each for each in map(json.loads, lines) if settings.items() <= each.items()]
    missing = [fold for fold in options.folds if fold not in {each["fold"] for each in found}]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        running = []
        for fold in missing:
            config = replace(
                run,
                data=replace(run.data, recordings=str(options.recordings), test_fold=fold),
                stage_a=replace(run.stage_a, steps=options.steps),
            )
            running.append(pool.submit(measure, config, options.encoder_steps, options.encoder_clips))
        for future in as_completed(running):
            figures = future.result() | settings
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")
            found.append(figures)
            print(f"fold {figures['fold']}: {figures['minutes']:.1f} minutes", flush=True)
    report(sorted((each for each in found if each["fold"] in options.folds), key=lambda each: each["fold"]), settings)


def report(found: list[dict[str, Any]], settings: dict[str, int]) -> None:
    """Print a line per fold, mean and standard deviation over them, and all of it as JSON."""
    print(f"{'fold':<12}" + "".join(f"{name:>14}" for name in COLUMNS))
    for each in found:
        print(f"{each['fold']:<12}" + "".join(f"{each[name]:>14.1f}" for name in COLUMNS))
    spread = {
        name: (mean(each[name] for each in found), stdev([each[name] for each in found]) if len(found) > 1 else 0.0)
        for name in COLUMNS
    }
    print(f"{'mean ± sd':<12}" + "".join(f"{f'{middle:.1f} ± {sd:.1f}':>14}" for middle, sd in spread.values()))
    summary = {name: [round(value, 3) for value in values] for name, values in spread.items()}
    folds = [{name: round(each[name], 3) for name in ("fold", *COLUMNS, "best_step", "minutes")} for each in found]
    print(json.dumps({"folds": folds, "mean_sd": summary, **settings}))


if __name__ == "__main__":
    main()
