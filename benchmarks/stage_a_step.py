"""What a training step of Stage A costs against forward and backward of the frozen base alone, in the same run.

    python benchmarks/stage_a_step.py [--rounds 7] [--rows 2] [--threads 1]

The base is a LLaVA with random weights of about 200 M parameters; a question has 576 image tokens, 40 text tokens, 8
audio tokens and 4 answer tokens. The reference runs the base forward on the batch and its loss backward to the input
embeddings, which is what any adapter at the embeddings has to pay. The step is that of Stage A: projector, fusion,
both losses (half of the rows are retention questions, with the base's logits at hand), gradients, clipping, AdamW.
Both are given the pictures' features, as Stage A keeps them. They run in turns; the figure is the median of the ratio
of neighbours. With one thread time is that of the process, so that other programs on the machine do not count.
Prints a table and, as its last line, one JSON object: {"step": ...}.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from fusion_overhead import clock_for, median, timed
from random_llava import SCALES, question, random_base, safe_models
from torch import Tensor

from supervised.losses import IGNORED, distillation_loss, task_loss
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.schedule import parameter_groups

ANSWER = 4


class Steps:
    """One batch, and the two ways to pass over it."""

    def __init__(self, rows: int) -> None:
        base = random_base(SCALES["small"], "cpu", torch.float32)
        (self.model,) = safe_models(base, SCALES["small"], ("prompt",))
        self.inputs, self.audio = question(base, rows, ANSWER)
        self.images = self.model.encode_images(self.inputs)
        length = self.inputs["input_ids"].shape[1]
        self.prompt_mask = (torch.arange(length) < length - ANSWER).expand(rows, -1)
        self.labels = self.inputs["input_ids"][:, -ANSWER:]  # (B, K)
        self.retention = torch.arange(rows) % 2 == 1  # (B,)
        self.config = StageAConfig()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model.adapter, self.config))
        with torch.no_grad():
            self.plain = self._logits(heard=False).float()

    def _logits(self, heard: bool) -> Tensor:
        """Return the logits (B, K, V) that predict the answers."""
        audio = self.audio if heard else None
        output = self.model.forward(self.inputs, audio, 1.0, self.prompt_mask, self.images, logits_to_keep=ANSWER + 1)
        logits: Tensor = output.logits[:, :-1]
        return logits

    def reference(self) -> None:
        """Run the frozen base forward, and backward to its input embeddings."""

        def require(_: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"].detach().requires_grad_(True)}

        hook = self.model.stack.register_forward_pre_hook(require, with_kwargs=True)
        try:
            task_loss(self._logits(heard=False), self.labels).backward()
        finally:
            hook.remove()

    def step(self) -> None:
        """Take one step of Stage A."""
        config, retention = self.config, self.retention[:, None]
        logits = self._logits(heard=True)
        task = task_loss(logits, self.labels.masked_fill(retention, IGNORED))
        mask = retention.expand_as(self.labels)
        distill = distillation_loss(logits, self.plain, mask, config.loss.temperature)
        loss = config.loss.task * task + config.loss.distill * distill
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        self.optimizer.step()


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of either")
    parser.add_argument("--rows", type=int, default=2, help="questions of the batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps = Steps(options.rows)
    calls = {"reference": steps.reference, "step": steps.step}
    pairs = timed(calls, options.rounds, clock_for("cpu", options.threads))["step"]
    ratio = median(own / reference for own, reference in pairs)
    print(f"{options.rows} rows, CPU, {options.threads} thread(s), medians of {options.rounds} rounds")
    print(f"{'':<34}{'ms':>10}{'ratio':>8}")
    print(f"{'frozen base, forward and backward':<34}{median(reference for _, reference in pairs):>10.0f}{1:>8.3f}")
    print(f"{'Stage A step':<34}{median(own for own, _ in pairs):>10.0f}{ratio:>8.3f}")
    print(json.dumps({"step": round(ratio, 4)}))


if __name__ == "__main__":
    main()
