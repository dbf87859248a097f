"""One run of Stage A, from its data to its best adapter, step by step.

In: a model, questions and settings. Out, in the run's folder: `adapter/`, `metrics.jsonl`, a tracker's files and the
latest checkpoint. Between two steps a run is described completely by what a checkpoint holds, and `whole` tells when
that is so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
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
from supervised.stage_a.course import Course
from supervised.stage_a.evaluation import Evaluation
from supervised.stage_a.examples import Batch, Examples
from supervised.stage_a.fisher import consolidated
from supervised.stage_a.identity import data_identity, identity, refuse_other
from supervised.stage_a.log import MetricsLog
from supervised.stage_a.naive import write_base
from supervised.stage_a.null_space import NullSpace
from supervised.stage_a.objective import Objective
from supervised.stage_a.reading import AHEAD, Reader
from supervised.stage_a.rows import Rows
from supervised.stage_a.schedule import freeze, order, phase_at
from supervised.stage_a.step import Step
from supervised.stage_a.teacher import Teacher
from supervised.stage_a.trained import trained_values

MEASURED = 256
"""Retention questions that Fisher information and null space are measured on."""


class Run:
    """A run in a folder: `open`, `prepare` unless it is `finished`, `train`, `finish`, and `close` in any case."""

    examples: Examples
    evaluation: Evaluation
    rows: Rows
    reader: Reader[list[Batch]] | None = None
    step: Step

    def __init__(self, model: SafeModel, config: StageAConfig, folder: Path, show: bool, processes: Processes) -> None:
        """Take the model; nothing is read or written yet.

        Raises:
            ConfigError: the settings ask the model for what it does not have.
        """
        config.require(model.config)
        self.model, self.config, self.folder, self.processes = model, config, folder, processes
        self.show = show and processes.main
        self.progress = Progress()
        self.course = Course(config)
        self.trained = trained_values(model, config)
        self.phase: int | None = None  # whose parts are being trained
        self.tensors: dict[str, Tensor] = {}  # of the checkpoint, until they are restored
        self.random: dict[str, Any] = random_states()
        self.saved: tuple[int, int] | None = None  # step and evaluation of the checkpoint that is on disk
        self.whole = False  # adapter, optimiser, progress and metrics belong to one step, so they may be saved
        self.log: MetricsLog | None = None
        self.identity = identity(model, config)

    @property
    def finished(self) -> bool:
        """No step and no evaluation is left."""
        return bool(self.course.reason) or self.progress.evaluated == self.config.steps

    def open(self, resume: bool) -> None:
        """Take over the checkpoint in the folder, if there is one.

        Raises:
            CheckpointError: there is one and `resume` is False; or it is damaged or of another run.
        """
        found = checkpoints(self.folder)
        if not found:
            return
        if not resume:
            raise CheckpointError(
                f"{self.folder} holds an earlier run ({found[-1].name}); go on with --resume, or give another folder."
            )
        self.progress, saved, self.tensors, self.random = read_checkpoint(found[-1])
        refuse_other(self.folder, saved, self.identity | {"data": saved["data"]})  # data: when they have been read
        self.identity["data"] = saved["data"]
        self.course.set_state(self.progress.parts)
        self.saved = (self.progress.step, self.progress.evaluated)

    def prepare(self, train: Sequence[Sample], validation: Sequence[Sample], skip: bool, tracker: str) -> None:
        """Compute everything frozen once: inputs, audio, pictures, the base's logits and answers."""
        config, progress = self.config, self.progress
        chosen = sorted(order(len(validation), config.seed, "evaluation")[: config.eval_samples].tolist())
        with tqdm(total=len(train) + len(chosen), desc="Listening", unit="clip", disable=not self.show) as bar:
            self.examples = Examples(self.model, train, range(len(train)), bar.update, "replace" if skip else "stop")
            examined = Examples(self.model, validation, chosen, bar.update, "leave_out" if skip else "stop")
        self._check_data(examined)
        self.evaluation = Evaluation(examined, config.budgets, self.processes, frozen=not config.train_base)
        progress.base = self.evaluation.base
        self.rows = Rows(self.examples, config)
        retention = (self.examples.retention & self.examples.present).nonzero()[:, 0].tolist()
        self.measured = [retention[i] for i in sorted(order(len(retention), config.seed, "measured")[:MEASURED])]
        teacher = Teacher(self.examples, retention) if self.rows.reads["retention"] else None
        self.step = Step(Objective(self.examples, teacher, config.loss), self.trained.optimizer, config, self.processes)
        null_space = self._restore()  # only now: a base that is trained has been asked as it was at first
        if null_space:
            self.step.null_space = NullSpace.from_tensors(self.model.adapter, null_space)
        elif config.guard.null_space > 0:
            self.step.null_space = NullSpace.measure(self.examples, self.measured, config.guard.null_space)
        self.rows.restrict(self.course.curriculum.share)
        if "rows" in progress.parts:  # they go on as they were restricted
            self.rows.set_state(progress.parts["rows"])
        self.drawn = self.rows.get_state()
        ahead = 0 if self.examples.kept else AHEAD
        self.reader = Reader(self.rows, self._batches, progress.step, ahead)
        if self.processes.main:
            self.log = MetricsLog(self.folder, progress.step, progress.lines, tracker)
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
                    best = self.course.guard.best
                    bar.set_postfix(accuracy=f"{best['audio_accuracy']:.3f}", drop=f"{best['drop']:.3f}")
                if progress.step > 0 and (self.finished or progress.step % config.checkpoint_every == 0):
                    self.save()
                if self.finished:
                    break
                self.advance()
                bar.update()
        for kind, examples in (("training", self.examples), ("validation", self.evaluation.examples)):
            if left_out := examples.left_out:
                self._tell(f"{len(left_out)} {kind} questions could not be used, e.g. {left_out[0]['reason']}")

    def advance(self) -> None:
        """Take one optimiser step; until its last part the run's state is untouched."""
        assert self.reader is not None  # since `prepare`
        number = self.progress.step
        self._enter_phase(number)
        batches, drawn = next(self.reader)
        figures = self.step.gradient(number, batches, self.course.loss_weights())
        self.whole = False
        self.drawn = drawn  # not before: a step that is not taken has drawn nothing
        figures["rate"] = self.step.follow(number)
        self.course.curriculum.observe_loss(figures["loss"])
        self.progress.step += 1
        self._record("train", figures)
        self.random = random_states()
        self.whole = True

    def evaluate(self) -> None:
        """Measure, and do what the course of the run asks for."""
        progress, figures = self.progress, self.evaluation()
        self.whole = False
        progress.evaluated = progress.step
        outputs, base_outputs = self.evaluation.outputs, self.evaluation.base_outputs
        decision = self.course.judge(progress.step, figures, progress.base, outputs, base_outputs)
        if decision.verdict == "best":
            self.trained.keep_best()
        elif decision.verdict == "roll_back":
            self.trained.roll_back()
        if decision.restricted:
            assert self.reader is not None  # since `prepare`
            self.reader.rewind()
            self.rows.restrict(self.course.curriculum.share)
            self.drawn = self.rows.get_state()
        for line in decision.told:
            self._tell(line)
        answered = {name: value for name, value in asdict(outputs).items() if value is not None and name != "questions"}
        self._record("evaluation", figures | answered | {"stage": self.course.curriculum.stage + 1})
        self.whole = True

    def save(self) -> None:
        """Write a checkpoint, unless this very state is on disk."""
        state = (self.progress.step, self.progress.evaluated)
        if self.saved == state:
            return
        self.progress.parts = {**self.course.get_state(), "rows": self.drawn}  # more may have been read ahead
        with self.processes.together():
            if self.processes.main:
                null_space = None if self.step.null_space is None else self.step.null_space.tensors()
                save_checkpoint(self.folder, self.progress, self.identity, self.trained, self.random, null_space)
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

    def finish(self, adapter: Path, figures: Mapping[str, Any]) -> None:
        """Put the best values into the model and save its adapter, with `figures` for its card."""
        self.whole = False  # from here on the adapter is no longer that of the last step
        self._restore()
        self.trained.take_best()
        with self.processes.together():
            if self.processes.main:
                if self.config.train_base:
                    write_base(self.model, self.folder / "base")
                self.model.save_pretrained(adapter, {"validation": figures})

    def close(self) -> None:
        """End the reading, close the log, and leave every part of the adapter as it may be trained again."""
        if self.reader is not None:
            self.reader.close()
        if self.log is not None:
            self.log.close()
        self.model.adapter.requires_grad_(True)

    def _check_data(self, examined: Examples) -> None:
        """Refuse data that are not those of the run, or of the other processes, or that no step can be judged by."""
        data = data_identity(train=self.examples, validation=examined)
        if self.identity["data"]:
            refuse_other(self.folder, {"data": self.identity["data"]}, {"data": data})
        self.identity["data"] = data
        self.processes.same(self.identity, "the run")
        if not bool(examined.present.any()):
            raise DataError("no validation question has audio, so no step can be called best; add such questions.")

    def _restore(self) -> dict[str, Tensor]:
        """Take the checkpoint's tensors over, once; return those of the null space, if there is one."""
        tensors, self.tensors = self.tensors, {}
        return restore(tensors, self.trained) if tensors else {}

    def _batches(self, rows: Sequence[int], number: int) -> list[Batch]:
        """Return this process's questions of step `number`, in parts."""
        mine = self.processes.mine(rows)
        parts = (mine[part :: self.config.accumulate] for part in range(self.config.accumulate))
        return [self.examples.batch(part, epoch=number) for part in parts if part]

    def _enter_phase(self, number: int) -> None:
        """Train the parts of the phase of step `number`; from the second phase on, hold what retention depends on."""
        phase = phase_at(number, self.config)
        if phase == self.phase:
            return
        freeze(self.trained.optimizer, phase)
        if self.config.loss.fisher > 0 and phase > 0:
            begun = number > 0 and phase_at(number - 1, self.config) == phase
            path = self.folder / f"fisher-{phase}.safetensors"
            self.step.consolidated = consolidated(path, self.identity, self.examples, self.measured, begun=begun)
        self.phase = phase

    def _tell(self, line: str) -> None:
        """Say what changed the course of the run."""
        if self.processes.main:
            tqdm.write(f"Stage A, step {self.progress.step}: {line}", file=sys.stderr)

    def _record(self, kind: str, figures: Mapping[str, float]) -> None:
        """Log the figures of the present step."""
        if self.log is not None:
            self.log.write(self.progress.step, kind, figures)
        self.progress.lines += 1
