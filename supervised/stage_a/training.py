"""Stage A: trains the adapter of a frozen model to hear, and to stay the base where there is nothing to hear.

The loss is that of `supervised.stage_a.objective`. The gate g rises from just above 0 to 1: at 0 the adapter is
bypassed and nothing has a gradient. With token budgets a step hears only as many audio tokens as its budget, so that
every prefix of them learns to do. Into the run's folder go `adapter/` (the best evaluated one), `metrics.jsonl`,
a tracker's files and the latest checkpoint. A run that was stopped goes on bit for bit as if it had not been, given
the same data, processes and number of threads; on another number of processes it goes on up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from supervised.data.sample import Sample
from supervised.processes import Processes
from supervised.safe_model import SafeModel
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.run import Run


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
        ConfigError: the settings ask the model for what it does not have; or the tracker is not installed.
        CheckpointError: `out_dir` holds a checkpoint and `resume` is False; or it is damaged or of another run; or
            the Fisher information of the phase under way is.
        DataError: a medium cannot be used, or a kind of question that the training or its evaluation needs is missing.
        ModelError: the training diverged, or gate 0 is no longer the base.
        KeyboardInterrupt: it was interrupted; the message tells what was kept.
    """
    run = Run(model, config, Path(out_dir), progress, Processes.current())
    try:
        run.open(resume)
        if not run.finished:
            run.prepare(train, validation, on_error == "skip", tracker)
            run.train()
        result = _result(run)
        figures = asdict(result)
        run.finish(figures.pop("adapter"), figures)
        return result
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.keep()) from None
    finally:
        run.close()


def _result(run: Run) -> StageAResult:
    """Return what a run that is finished achieved."""
    best, base = run.course.guard.best, run.progress.base
    return StageAResult(
        adapter=run.folder / "adapter",
        steps=run.progress.step,
        stopped_early=bool(run.course.reason),
        reason=run.course.reason,
        best_step=int(best["step"]),
        audio_accuracy=best["audio_accuracy"],
        base_audio_accuracy=base["audio_accuracy"],
        retention_score=best["retention_score"],
        base_retention_score=base["retention_score"],
        drop=best["drop"],
    )
