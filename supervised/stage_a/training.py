"""Stage A: trains the adapter of a frozen model to hear, and to stay the base where there is nothing to hear.

The loss is that of `supervised.stage_a.objective`. The gate g rises from just above 0 to 1: at 0 the adapter is
bypassed and nothing has a gradient. With token budgets a step hears only as many audio tokens as its budget, so that
every prefix of them learns to do. Into the run's folder go `adapter/` (the best evaluated one), `metrics.jsonl`,
a tracker's files and the latest checkpoint. A run that was stopped goes on bit for bit as if it had not been, given
the same data, processes and number of threads; on another number of processes it goes on up to the order of sums.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from supervised.data.sample import Sample
from supervised.errors import CheckpointError, DataError
from supervised.processes import Processes
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
from supervised.stage_a.curriculum import Curriculum
from supervised.stage_a.evaluation import Evaluation
from supervised.stage_a.examples import Batch, Examples
from supervised.stage_a.fisher import consolidated
from supervised.stage_a.guard import Guard
from supervised.stage_a.identity import data_identity, identity, refuse_other
from supervised.stage_a.log import MetricsLog
from supervised.stage_a.loss_weights import LossWeights
from supervised.stage_a.naive import trainable_stack, write_base
from supervised.stage_a.null_space import NullSpace
from supervised.stage_a.objective import Objective
from supervised.stage_a.reading import AHEAD, Reader
from supervised.stage_a.rows import Rows
from supervised.stage_a.schedule import freeze, order, parameter_groups, phase_at
from supervised.stage_a.stability import OutputMonitor
from supervised.stage_a.step import Step
from supervised.stage_a.teacher import Teacher

MEASURED = 256
"""Retention questions that Fisher information and null space are measured on."""


@dataclass(frozen=True)
class StageAResult:
    """What Stage A achieved, in fractions, on the evaluated validation questions with the gate at 1."""

    adapter: Path
    """Folder of the saved adapter, for `SafeModel.from_pretrained`."""
    steps: int
    """Optimiser steps done."""
    stopped_early: bool
    """The training ended before its last step."""
    reason: str
    """Why it did; empty where it did not."""
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
    on_error: Literal["stop", "skip"] = "stop",
    tracker: Literal["none", "tensorboard", "wandb"] = "tensorboard",
) -> StageAResult:
    """Train `model.adapter`, save its best state in `out_dir`/adapter and leave it in the model.

    The caller seeds the generators before it makes the adapter, and sets the number of threads. Started with
    `accelerate launch`, the processes share every batch; the first of them writes.

    Args:
        model: frozen base, frozen encoder, and the adapter to train.
        train: questions to learn from; those without audio teach nothing and are passed over.
        validation: questions to choose the best step by; `config.eval_samples` of them are used.
        config: of the training.
        out_dir: the run's folder.
        resume: go on from the checkpoint in `out_dir`; where there is none, start.
        progress: show progress bars.
        on_error: what becomes of a question whose picture, clip or answer cannot be used: stop, or skip and count it.
        tracker: who gets the figures of `metrics.jsonl` as well.

    Raises:
        ConfigError: a budget asks for more audio tokens than the adapter makes; or the tracker is not installed.
        CheckpointError: `out_dir` holds a checkpoint and `resume` is False; or it is damaged or of another run.
        DataError: a medium cannot be used, or a kind of question that loss or evaluation need is missing.
        ModelError: the training diverged, or gate 0 is no longer the base.
        KeyboardInterrupt: it was interrupted; the message tells what was kept.
    """
    run = _Run(model, config, Path(out_dir), progress, Processes.current())
    try:
        run.open(resume)
        if not run.finished:
            run.prepare(train, validation, on_error == "skip", tracker)
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
    rows: Rows
    reader: Reader[list[Batch]] | None = None
    monitor: OutputMonitor
    step: Step

    def __init__(self, model: SafeModel, config: StageAConfig, folder: Path, show: bool, processes: Processes) -> None:
        model.config.projector.require("stage_a.budgets", config.budgets)
        self.model, self.config, self.folder, self.processes = model, config, folder, processes
        self.show = show and processes.main
        self.progress = Progress()
        self.guard = Guard(config.guard)
        self.curriculum = Curriculum(config.curriculum, config.steps)
        self.weights = LossWeights(config.loss, config.curriculum)
        stack = trainable_stack(model) if config.train_base else None
        self.trained: nn.Module = model.adapter
        if stack is not None:
            self.trained = nn.ModuleDict({"adapter": model.adapter, "base": stack})
        self.optimizer = torch.optim.AdamW(parameter_groups(model.adapter, config, stack), betas=(0.9, 0.999))
        self.tensors: dict[str, Tensor] = {}  # of the checkpoint, until they are restored
        self.best: dict[str, Tensor] = {}
        self.null_space: dict[str, Tensor] = {}
        self.random: dict[str, Any] = random_states()
        self.saved: tuple[int, int] | None = None  # step and evaluation of the checkpoint that is on disk
        self.whole = False  # adapter, optimiser, progress and metrics belong to one step, so they may be saved
        self.log: MetricsLog | None = None
        self.identity = identity(model, config)

    @property
    def finished(self) -> bool:
        """No step and no evaluation is left."""
        return bool(self.guard.reason) or self.progress.evaluated == self.config.steps

    def open(self, resume: bool) -> None:
        """Take over the checkpoint in the folder, if there is one."""
        found = checkpoints(self.folder)
        if not found:
            return
        if not resume:
            raise CheckpointError(
                f"{self.folder} holds an earlier run ({found[-1].name}); go on with --resume, or give another folder."
            )
        self.progress, saved, tensors, self.random = read_checkpoint(found[-1])
        refuse_other(self.folder, saved, self.identity | {"data": saved["data"]})  # data: when they have been read
        self.identity["data"] = saved["data"]
        self.tensors = tensors
        self.guard.set_state(self.progress.parts["guard"])
        self.saved = (self.progress.step, self.progress.evaluated)

    def prepare(self, train: Sequence[Sample], validation: Sequence[Sample], skip: bool, tracker: str) -> None:
        """Compute everything frozen once: inputs, audio, pictures, the base's logits and answers."""
        config = self.config
        chosen = sorted(order(len(validation), config.seed, "evaluation")[: config.eval_samples].tolist())
        with tqdm(total=len(train) + len(chosen), desc="Listening", unit="clip", disable=not self.show) as bar:
            self.examples = Examples(self.model, train, range(len(train)), bar.update, "replace" if skip else "stop")
            examined = Examples(self.model, validation, chosen, bar.update, "leave_out" if skip else "stop")
        data = data_identity(train=self.examples, validation=examined)
        if self.identity["data"]:
            refuse_other(self.folder, {"data": self.identity["data"]}, {"data": data})
        self.identity["data"] = data
        self.processes.same(self.identity, "the run")
        if not bool(examined.present.any()):
            raise DataError("no validation question has audio, so no step can be called best; add such questions.")
        self.evaluation = Evaluation(examined, config.budgets, self.processes, frozen=not config.train_base)
        self.progress.base = self.evaluation.base
        self.rows = Rows(self.examples, config)
        self.monitor = OutputMonitor(self.evaluation.base_outputs)
        retention = (self.examples.retention & self.examples.present).nonzero()[:, 0].tolist()
        teacher = Teacher(self.examples, retention) if self.rows.reads["retention"] else None
        self.step = Step(Objective(self.examples, teacher, config.loss), self.optimizer, config, self.processes)
        self.measured = [retention[i] for i in sorted(order(len(retention), config.seed, "measured")[:MEASURED])]
        self._restore()  # only now: a base that is trained has been asked as it was at first
        if self.null_space:
            self.step.null_space = NullSpace.from_tensors(self.model.adapter, self.null_space)
        elif config.guard.null_space > 0:
            self.step.null_space = NullSpace.measure(self.examples, self.measured, config.guard.null_space)
            self.null_space = self.step.null_space.tensors()
        for name, part in self._parts().items():
            if name in self.progress.parts:
                part.set_state(self.progress.parts[name])
            if name == "curriculum":  # the rows go on as they were restricted
                self.rows.restrict(self.curriculum.share)
        self.drawn = self.rows.get_state()
        ahead = 0 if self.examples.kept else AHEAD
        self.reader = Reader(self.rows, self._batches, self.progress.step, ahead)
        self._begin_phase(phase_at(self.progress.step, config))
        if self.processes.main:
            self.log = MetricsLog(self.folder, self.progress.step, self.progress.lines, tracker)
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
                    best = self.guard.best
                    bar.set_postfix(accuracy=f"{best['audio_accuracy']:.3f}", drop=f"{best['drop']:.3f}")
                if progress.step > 0 and (self.finished or progress.step % config.checkpoint_every == 0):
                    self.save()
                if self.finished:
                    break
                self.advance()
                bar.update()
        if left_out := self.examples.left_out:
            self._tell(f"{len(left_out)} training questions could not be used, e.g. {left_out[0]['reason']}")

    def advance(self) -> None:
        """Take one optimiser step; until its last part the run's state is untouched."""
        assert self.reader is not None  # since `prepare`
        number = self.progress.step
        if number > 0 and (phase := phase_at(number, self.config)) != phase_at(number - 1, self.config):
            self._begin_phase(phase)
        batches, drawn = next(self.reader)
        weights = self.weights.at(self.curriculum.stage, self.curriculum.stages)
        figures = self.step.gradient(number, batches, weights)
        self.whole = False
        self.drawn = drawn  # not before: a step that is not taken has drawn nothing
        figures["rate"] = self.step.follow(number)
        self.curriculum.observe_loss(figures["loss"])
        self.progress.step += 1
        self._record("train", figures)
        self.random = random_states()
        self.whole = True

    def evaluate(self) -> None:
        """Measure, keep the adapter if it is the best so far, and do what the guard and the curriculum say."""
        progress, figures = self.progress, self.evaluation()
        self.whole = False
        progress.evaluated = progress.step
        warming = progress.step < self.config.gate_warmup_steps  # the gate of the training is not that of an evaluation
        verdict = self.guard.judge(figures, progress.step, warming)
        if verdict == "best":
            self.best = {name: value.detach().clone() for name, value in self.trained.state_dict().items()}
        elif verdict == "roll_back":
            self.trained.load_state_dict(self.best)
            self.optimizer.state.clear()
            raised = self.weights.hold_harder()
            fallen = f"retention fell by {100 * figures['drop']:.1f} points"
            self._tell(f"{fallen}: back to step {self.guard.best['step']}; {raised}")
        if not warming and (told := self.weights.judge(figures, progress.base)):
            self._tell(told)
        if self.curriculum.judge(figures, progress.base):
            assert self.reader is not None  # since `prepare`
            self.reader.rewind()
            self.rows.restrict(self.curriculum.share)
            self.drawn = self.rows.get_state()
            self._tell(self.curriculum.reason)
        for warning in [] if warming else self.monitor.check(self.evaluation.outputs):
            self._tell(warning)
            if self.monitor.stop:
                self.guard.reason = warning
        outputs = {name: value for name, value in asdict(self.evaluation.outputs).items() if value is not None}
        del outputs["questions"]
        self._record("evaluation", figures | outputs | {"stage": self.curriculum.stage + 1})
        self.whole = True

    def save(self) -> None:
        """Write a checkpoint, unless this very state is on disk."""
        state = (self.progress.step, self.progress.evaluated)
        if self.saved != state:
            parts = {name: part.get_state() for name, part in self._parts().items()}
            self.progress.parts = parts | {"rows": self.drawn}  # more may have been read ahead
            if self.processes.main:
                save_checkpoint(
                    self.folder,
                    self.progress,
                    self.identity,
                    self.trained,
                    self.optimizer,
                    self.best,
                    self.random,
                    self.null_space,
                )
            self.processes.wait()
            self.saved = state

    def keep(self) -> str:
        """Save what an interruption left whole; return one line about it."""
        alone = self.processes.count == 1  # otherwise another process may stand elsewhere
        if self.whole and self.progress.step > 0 and alone:
            self.save()
        where = f"Stage A was stopped at step {self.progress.step} of {self.config.steps}"
        if self.saved is None:
            return f"{where}; nothing was there to be kept, start it again."
        lost = self.progress.step - self.saved[0]
        return f"{where}; {self.folder} keeps step {self.saved[0]} ({lost} steps are lost); go on with --resume."

    def finish(self) -> StageAResult:
        """Put the best adapter into the model and save it."""
        self.whole = False  # from here on the adapter is no longer that of the last step
        best, base = self.guard.best, self.progress.base
        self._restore()
        self.trained.load_state_dict(self.best)
        self.model.adapter.requires_grad_(True)
        result = StageAResult(
            adapter=self.folder / "adapter",
            steps=self.progress.step,
            stopped_early=bool(self.guard.reason),
            reason=self.guard.reason,
            best_step=int(best["step"]),
            audio_accuracy=best["audio_accuracy"],
            base_audio_accuracy=base["audio_accuracy"],
            retention_score=best["retention_score"],
            base_retention_score=base["retention_score"],
            drop=best["drop"],
        )
        figures = {name: value for name, value in asdict(result).items() if name != "adapter"}
        if self.processes.main:
            if self.config.train_base:
                write_base(self.model, self.folder / "base")
            self.model.save_pretrained(result.adapter, {"validation": figures})
        self.processes.wait()
        return result

    def close(self) -> None:
        """End the reading and close the log."""
        if self.reader is not None:
            self.reader.close()
        if self.log is not None:
            self.log.close()

    def _restore(self) -> None:
        """Take the checkpoint's tensors over, once."""
        if self.tensors:
            self.best, self.null_space = restore(self.tensors, self.trained, self.optimizer)
            self.tensors = {}

    def _batches(self, rows: Sequence[int], number: int) -> list[Batch]:
        """Return this process's questions of step `number`, in parts."""
        mine = self.processes.mine(rows)
        parts = (mine[part :: self.config.accumulate] for part in range(self.config.accumulate))
        return [self.examples.batch(part, epoch=number) for part in parts if part]

    def _begin_phase(self, phase: int) -> None:
        """Train the parts of a phase; from the second on, note where it began and what retention depends on."""
        freeze(self.optimizer, phase)
        if self.config.loss.fisher > 0 and phase > 0:
            path = self.folder / f"fisher-{phase}.safetensors"
            self.step.consolidated = consolidated(path, self.identity, self.examples, self.measured)

    def _parts(self) -> dict[str, Any]:
        """Return every part of the run that has a memory, by its name in a checkpoint."""
        return {
            "guard": self.guard,
            "curriculum": self.curriculum,
            "rows": self.rows,
            "weights": self.weights,
            "monitor": self.monitor,
        }

    def _tell(self, line: str) -> None:
        """Say what changed the course of the run."""
        if self.processes.main:
            tqdm.write(f"Stage A, step {self.progress.step}: {line}", file=sys.stderr)

    def _record(self, kind: str, figures: dict[str, float]) -> None:
        """Log the figures of the present step."""
        if self.log is not None:
            self.log.write(self.progress.step, kind, figures)
        self.progress.lines += 1
