"""What a training step of Stage A costs against forward and backward of the frozen base alone, in the same run.

    python benchmarks/stage_a_step.py [--rounds 7] [--rows 2] [--threads 1]

The base is a LLaVA with random weights of about 200 M parameters; a question has 576 image tokens, 40 text tokens, 8
audio tokens and 4 answer tokens; every second one is a retention question. The reference runs the base forward on the
batch and its loss backward to the input embeddings, which is what any adapter at the embeddings has to pay. The step is
the trainer's own: the batch is put together, passed through with its audio, the default terms of the loss, gradients,
clipping, AdamW. Pictures' features and the base's logits are at hand, as Stage A keeps them. Beside it stand the same
step without either: `teacher anew` asks the base about the retention questions again, `pixels` runs the vision tower.

Everything runs in turns; figures are medians of the ratios of neighbours. With one thread time is that of the process,
so that other programs on the machine do not count.
Prints a table and, as its last line, one JSON object: {"step": ... to the reference, "teacher_anew": ... and
"pixels": ... to the step}.
"""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fusion_overhead import clock_for, median, timed
from random_llava import SCALES, question, random_base, safe_models

from supervised.data.sample import Sample
from supervised.losses import task_loss
from supervised.processes import Processes
from supervised.safe_model import SafeModel
from supervised.stage_a import teacher
from supervised.stage_a.config import LossConfig, StageAConfig
from supervised.stage_a.examples import Examples
from supervised.stage_a.loss_weights import LossWeights
from supervised.stage_a.objective import Objective
from supervised.stage_a.preparing import Ready
from supervised.stage_a.schedule import parameter_groups
from supervised.stage_a.step import Step

ANSWER = 4
BOUND = 1.15


class Given(Examples):
    """Questions that are ready, for a model without processor and encoder."""

    def __init__(self, model: SafeModel, ready: list[Ready]) -> None:
        self.model, self.ready, self.on_error = model, ready, "stop"
        self._places = np.arange(len(ready))


def questions(model: SafeModel, rows: int, features: bool) -> Given:
    """Return `rows` questions, with the features of their pictures or with pixels."""
    inputs, audio = question(model.base, rows, ANSWER)
    seen: Any = model.encode_images(inputs)
    ready = []
    for row in range(rows):
        sample = Sample(f"{row}", "?", ("!",), retention_set="vl" if row % 2 else None)
        ids = inputs["input_ids"][row]
        rest = {} if features else {"pixel_values": inputs["pixel_values"][row : row + 1]}
        images = (seen.pooler_output[row],) if features else ()
        ready.append(Ready(sample, ids[:-ANSWER], ids[-ANSWER:], rest, images, audio.rows([row])))
    return Given(model, ready)


class Steps:
    """One batch, and the ways to pass over it."""

    def __init__(self, rows: int) -> None:
        base = random_base(SCALES["small"], "cpu", torch.float32)
        (self.model,) = safe_models(base, SCALES["small"], ("prompt",))
        processor: Any = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))
        self.model.processor = processor
        self.rows = range(rows)
        self.config = StageAConfig()
        self.weights = LossWeights(LossConfig(), self.config.curriculum).at()
        self.number = self.config.gate_warmup_steps  # the first one with the gate at 1
        self.examples = questions(self.model, rows, features=True)
        self.batch = self.examples.batch(self.rows)
        optimizer = torch.optim.AdamW(parameter_groups(self.model.adapter, self.config))
        self.cached = self._stepper(self.examples, optimizer)
        self.from_pixels = self._stepper(questions(self.model, rows, features=False), optimizer)
        kept, teacher.CACHE_BYTES = teacher.CACHE_BYTES, -1
        self.asking = self._stepper(self.examples, optimizer)
        teacher.CACHE_BYTES = kept

    def _stepper(self, examples: Given, optimizer: torch.optim.Optimizer) -> Step:
        told = teacher.Teacher(examples, list(self.rows[1::2]))
        return Step(Objective(examples, told, self.config.loss), optimizer, self.config, Processes())

    def reference(self) -> None:
        """Run the frozen base forward, and backward to its input embeddings."""

        def require(_: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"].detach().requires_grad_(True)}

        hook = self.model.stack.register_forward_pre_hook(require, with_kwargs=True)
        try:
            task_loss(self.examples.logits(self.batch, None, 0.0), self.batch.labels).backward()
        finally:
            hook.remove()

    def take(self, step: Step) -> None:
        """Take one step of Stage A."""
        step.gradient(self.number, [step.objective.examples.batch(self.rows)], self.weights)
        step.follow(self.number)


def main() -> None:
    """Time them and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each")
    parser.add_argument("--rows", type=int, default=2, help="questions of the batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps, clock = Steps(options.rows), clock_for("cpu", options.threads)
    own = {"step": lambda: steps.take(steps.cached)}
    pairs = timed({"reference": steps.reference, **own}, options.rounds, clock)
    others = {
        "teacher_anew": lambda: steps.take(steps.asking),
        "pixels": lambda: steps.take(steps.from_pixels),
    }
    pairs |= timed({**own, **others}, options.rounds, clock)
    ratio = {name: median(taken / beside for taken, beside in each) for name, each in pairs.items()}
    print(f"{options.rows} rows, CPU, {options.threads} thread(s), medians of {options.rounds} rounds")
    print(f"{'':<34}{'ms':>8}  ratio")
    print(f"{'frozen base, forward and backward':<34}{median(beside for _, beside in pairs['step']):>8.0f}  1")
    lines = {
        "step": f"to the base (bound {BOUND})",
        "teacher_anew": "to the step: the base asked again",
        "pixels": "to the step: the vision tower runs",
    }
    for name, words in lines.items():
        print(f"{name:<34}{median(taken for taken, _ in pairs[name]):>8.0f}  {ratio[name]:.3f} {words}")
    print(json.dumps({name: round(value, 4) for name, value in ratio.items()}))


if __name__ == "__main__":
    main()
