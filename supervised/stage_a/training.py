"""Stage A: trains the adapter of a frozen model to hear, and to stay the base where there is nothing to hear.

    L = task * CE(answer | audio, g)              questions that need audio, answer tokens only
      + distill * T^2 * KL(base || safe)          retention questions with irrelevant audio, same positions

The gate g rises from just above 0 to 1: at 0 the adapter is bypassed and neither term has a gradient. With token
budgets a step hears only as many audio tokens as its budget, so that every prefix of them learns to do. Into the run's
folder go `adapter/` (the best evaluated one), `metrics.jsonl`, TensorBoard events and the latest checkpoint. A run
that was stopped goes on bit for bit as if it had not been, given the same data and number of threads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from supervised.data.sample import Sample
from supervised.diagnostics.recording import recording
from supervised.diagnostics.residual import fusion_figures
from supervised.differences import differences
from supervised.errors import CheckpointError, DataError, ModelError
from supervised.losses import IGNORED, distillation_loss, task_loss
from supervised.safe_model import SafeModel
from supervised.stage_a.checkpoint import (
    Progress,
    checkpoints,
    random_states,
    read_checkpoint,
    restore,
    restore_random,
    save_checkpoint,
)
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.evaluation import Evaluation
from supervised.stage_a.examples import Examples
from supervised.stage_a.log import MetricsLog
from supervised.stage_a.schedule import budget_at, gate_at, order, parameter_groups, questions_at, set_rates
from supervised.stage_a.teacher import BaseLogits


@dataclass(frozen=True)
class StageAResult:
    """What Stage A achieved, in fractions, on the evaluated validation questions with the gate at 1."""

    adapter: Path
    """Folder of the saved adapter, for `SafeModel.from_pretrained`."""
    steps: int
    """Optimiser steps done."""
    stopped_early: bool
    """Patience ended the training."""
    best_step: int
    """Step whose adapter was saved."""
    audio_accuracy: float
    """Score on questions that need audio; with token budgets their mean."""
    base_audio_accuracy: float
    """The base's score on them, without audio."""
    retention_score: float
    """Score on retention questions with irrelevant audio; with token budgets that of the worst."""
    base_retention_score: float
    """The base's score on them."""
    drop: float
    """`base_retention_score` - `retention_score`."""


def train_stage_a(
    model: SafeModel,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    config: StageAConfig,
    out_dir: Path | str,
    resume: bool = False,
    progress: bool = True,
) -> StageAResult:
    """Train `model.adapter`, save its best state in `out_dir`/adapter and leave it in the model.

    The caller seeds the generators before it makes the adapter, and sets the number of threads.

    Args:
        model: frozen base, frozen encoder, and the adapter to train.
        train: questions to learn from; those without audio teach nothing and are passed over.
        validation: questions to choose the best step by; `config.eval_samples` of them are used.
        config: of the training.
        out_dir: the run's folder.
        resume: go on from the checkpoint in `out_dir`; where there is none, start.
        progress: show progress bars.

    Raises:
        ConfigError: a budget asks for more audio tokens than the adapter makes.
        CheckpointError: `out_dir` holds a checkpoint and `resume` is False; or it is damaged or of another run.
        DataError: a medium cannot be used, or a kind of question that loss or evaluation need is missing.
        ModelError: the training diverged.
        KeyboardInterrupt: it was interrupted; the message tells what was kept.
    """
    run = _Run(model, config, Path(out_dir), progress)
    try:
        run.open(resume)
        if not run.finished:
            run.prepare(train, validation)
            run.train()
        return run.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.keep()) from None
    finally:
        run.close()


class _Run:
    """One call of `train_stage_a`; between two steps it is described completely by what a checkpoint holds."""

    examples: Examples
    evaluation: Evaluation
    rows: list[int]
    base_logits: BaseLogits

    def __init__(self, model: SafeModel, config: StageAConfig, folder: Path, show: bool) -> None:
        model.config.projector.require("stage_a.budgets", config.budgets)
        self.model, self.config, self.folder, self.show = model, config, folder, show
        self.progress = Progress()
        self.optimizer = torch.optim.AdamW(parameter_groups(model.adapter, config), betas=(0.9, 0.999))
        self.best: dict[str, Tensor] = {}
        self.random: dict[str, Any] = random_states()
        self.saved: tuple[int, int] | None = None  # step and evaluation of the checkpoint that is on disk
        self.whole = False  # adapter, optimiser, progress and metrics belong to one step, so they may be saved
        self.log: MetricsLog | None = None
        settings = {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}
        if not config.budgets:  # then a run is that of a time before there were budgets
            del settings["budgets"]
        fingerprint = {name: value for name, value in model.fingerprint().items() if name != "adapter"}
        self.identity: dict[str, Any] = _as_json({"stage_a": settings, "model": fingerprint, "data": {}})

    @property
    def finished(self) -> bool:
        """No step and no evaluation is left."""
        return self.progress.stopped or self.progress.evaluated == self.config.steps

    def open(self, resume: bool) -> None:
        """Take over the checkpoint in the folder, if there is one."""
        found = checkpoints(self.folder)
        if not found:
            return
        if not resume:
            raise CheckpointError(
                f"{self.folder} holds an earlier run ({found[-1].name}); go on with --resume, or give another folder."
            )
        self.progress, identity, tensors, self.random = read_checkpoint(found[-1])
        self.identity["data"] = identity["data"]  # compared when the data have been read
        self._compare(identity)
        self.best = restore(tensors, self.model.adapter, self.optimizer)
        self.saved = (self.progress.step, self.progress.evaluated)

    def prepare(self, train: Sequence[Sample], validation: Sequence[Sample]) -> None:
        """Compute everything frozen once: inputs, audio, pictures, the base's logits and answers."""
        chosen = sorted(order(len(validation), self.config.seed, "evaluation")[: self.config.eval_samples].tolist())
        with tqdm(total=len(train) + len(chosen), desc="Listening", unit="clip", disable=not self.show) as bar:
            self.examples = Examples(self.model, train, range(len(train)), bar.update)
            examined = Examples(self.model, validation, chosen, bar.update)
        saved = {**self.identity}
        self.identity["data"] = {
            name: {"questions": len(part), "sha256": part.sha256}
            for name, part in (("train", self.examples), ("validation", examined))
        }
        if saved["data"]:
            self._compare(saved)
        self.rows = self._usable()
        if not bool(examined.audio.present.any()):
            raise DataError("no validation question has audio, so no step can be called best; add such questions.")
        self.evaluation = Evaluation(examined, self.config.budgets)
        self.progress.base = self.evaluation.base
        retention = [row for row in self.rows if bool(self.examples.retention[row])]
        self.base_logits = BaseLogits(self.examples, retention)
        self.log = MetricsLog(self.folder, self.progress.step, self.progress.lines)
        restore_random(self.random)
        self.whole = True

    def train(self) -> None:
        """Step until the end, evaluating and saving when it is time."""
        config, progress = self.config, self.progress
        with tqdm(total=config.steps, initial=progress.step, desc="Stage A", unit="step", disable=not self.show) as bar:
            while True:
                last = progress.step == config.steps
                due = progress.step > 0 and (last or progress.step % config.eval_every == 0)
                if due and progress.evaluated != progress.step:
                    self.evaluate()
                    bar.set_postfix(
                        accuracy=f"{progress.best['audio_accuracy']:.3f}", drop=f"{progress.best['drop']:.3f}"
                    )
                if progress.step > 0 and (self.finished or progress.step % config.checkpoint_every == 0):
                    self.save()
                if self.finished:
                    return
                self.step()
                bar.update()

    def step(self) -> None:
        """Take one optimiser step; until its last part the run's state is untouched."""
        number, config = self.progress.step, self.config
        batch = self.examples.batch([self.rows[i] for i in questions_at(number, len(self.rows), config)])
        gate, budget = gate_at(number, config), budget_at(number, config)
        with recording(self.model.adapter) as seen:
            logits = self.examples.logits(batch, batch.audio, gate, budget)  # (B, K, V)
        retention = batch.retention[:, None]  # (B, 1)
        task = task_loss(logits, batch.labels.masked_fill(retention, IGNORED))
        mask = (batch.labels != IGNORED) & retention  # (B, K)
        distill = distillation_loss(logits, self.base_logits(batch, logits), mask, config.loss.temperature)
        loss = config.loss.task * task + config.loss.distill * distill
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, config.clip_norm))
        if not math.isfinite(norm):
            raise ModelError(f"Stage A diverged at step {number + 1} (gradient norm {norm}); lower stage_a.fusion_lr.")
        terms = {"loss": loss, "task_loss": task, "distill_loss": distill}
        figures = {name: value.item() for name, value in terms.items()} | {"grad_norm": norm}
        self.whole = False
        figures |= {"gate": gate, **fusion_figures(self.model.adapter, seen)}
        figures["rate"] = set_rates(self.optimizer, number, config)
        if budget is not None:
            figures["budget"] = float(budget)
        self.optimizer.step()
        self.progress.step += 1
        self._record("train", figures)
        self.random = random_states()
        self.whole = True

    def evaluate(self) -> None:
        """Measure, keep the adapter if it is the best so far, and end the run when patience is used up."""
        progress, figures = self.progress, self.evaluation()
        self.whole = False
        progress.evaluated = progress.step
        progress.stale += 1
        if not progress.best or self._rank(figures) > self._rank(progress.best):
            progress.best, progress.stale = figures | {"step": progress.step}, 0
            self.best = {name: value.detach().clone() for name, value in self.model.adapter.state_dict().items()}
        if progress.step < self.config.gate_warmup_steps:
            progress.stale = 0  # the gate of the training is not yet the gate of the evaluation
        progress.stopped = progress.stale >= self.config.guard.patience
        self._record("evaluation", figures)
        self.whole = True

    def save(self) -> None:
        """Write a checkpoint, unless this very state is on disk."""
        state = (self.progress.step, self.progress.evaluated)
        if self.saved != state:
            save_checkpoint(
                self.folder, self.progress, self.identity, self.model.adapter, self.optimizer, self.best, self.random
            )
            self.saved = state

    def keep(self) -> str:
        """Save what an interruption left whole; return one line about it."""
        if self.whole and self.progress.step > 0:
            self.save()
        where = f"Stage A was stopped at step {self.progress.step} of {self.config.steps}"
        if self.saved is None:
            return f"{where}; nothing was there to be kept, start it again."
        lost = self.progress.step - self.saved[0]
        return f"{where}; {self.folder} keeps step {self.saved[0]} ({lost} steps are lost); go on with --resume."

    def finish(self) -> StageAResult:
        """Put the best adapter into the model and save it."""
        self.whole = False  # from here on the adapter is no longer that of the last step
        best, base = self.progress.best, self.progress.base
        self.model.adapter.load_state_dict(self.best)
        result = StageAResult(
            adapter=self.folder / "adapter",
            steps=self.progress.step,
            stopped_early=self.progress.stopped,
            best_step=int(best["step"]),
            audio_accuracy=best["audio_accuracy"],
            base_audio_accuracy=base["audio_accuracy"],
            retention_score=best["retention_score"],
            base_retention_score=base["retention_score"],
            drop=best["drop"],
        )
        figures = {name: value for name, value in asdict(result).items() if name != "adapter"}
        self.model.save_pretrained(result.adapter, {"validation": figures})
        return result

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def _compare(self, saved: dict[str, Any]) -> None:
        """Refuse to go on with another configuration, model or data."""
        changes = differences(saved, _as_json(self.identity))
        if found := [f"{name} is {here}, was {there}" for name, there, here in changes]:
            raise CheckpointError(
                f"the checkpoint in {self.folder} is of another run: {'; '.join(found)}; "
                "give the same values, or another folder."
            )

    def _usable(self) -> list[int]:
        """Return the training questions that one of the terms learns from."""
        present, retention = self.examples.audio.present, self.examples.retention
        kinds = {
            "task": (~retention, "needs audio and has a clip"),
            "distill": (retention, "needs no audio (retention_set) and has a clip all the same"),
        }
        used = torch.zeros_like(present)
        for name, (kind, words) in kinds.items():
            if getattr(self.config.loss, name) > 0:
                if not bool((kind & present).any()):
                    raise DataError(f"no training question {words}; add some, or set stage_a.loss.{name} to 0.")
                used |= kind & present
        return [int(row) for row in used.nonzero()[:, 0]]

    def _record(self, kind: str, figures: dict[str, float]) -> None:
        """Log the figures of the present step."""
        if self.log is not None:
            self.log.write(self.progress.step, kind, figures)
            self.progress.lines += 1

    def _rank(self, figures: dict[str, float]) -> tuple[bool, float, float]:
        """Return the key that is larger for the better evaluation: within the drop, hearing counts; else the drop."""
        accuracy, drop = figures["audio_accuracy"], figures["drop"]
        within = drop <= self.config.guard.max_drop
        return (within, accuracy, -drop) if within else (within, -drop, accuracy)


def _as_json(value: Any) -> Any:
    """Return the value as it reads after it was written: tuples are lists."""
    return json.loads(json.dumps(value))
