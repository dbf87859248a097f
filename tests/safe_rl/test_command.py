"""Whatever ends a command, it ends in one line and an exit code; our own mistakes keep their traceback."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import safe_rl
from safe_rl import sweep
from safe_rl.command import PIPELINE, Advice, explain, run
from safe_rl.config import RunConfig, TuneRun
from safe_rl.tuning.workers import WORKERS
from supervised.errors import CheckpointError, DataError


@dataclass(frozen=True)
class Job:
    """A job."""

    size: int = 3
    """How large."""


def execute(work: Callable[[Job], None], *argv: str) -> int:
    return run(work, Job, list(argv), name="job", description="A job.", folder=lambda job: f"runs/{job.size}")


def failing(error: BaseException) -> Callable[[Job], None]:
    def work(job: Job) -> None:
        raise error

    return work


def test_work_gets_the_configuration_and_success_is_zero() -> None:
    seen: list[Job] = []
    assert execute(seen.append, "--size", "7") == 0
    assert seen == [Job(7)]


def test_help_is_success() -> None:
    assert execute(failing(AssertionError("nothing is to be done")), "--help") == 0


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("clip.ogg is empty;\n give another."), 1, "error: clip.ogg is empty; give another.\n"),
        (CheckpointError("checkpoint of another run."), 1, "error: checkpoint of another run.\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"),
            1,
            "error: a/b does not exist; check the path, or create it.\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            1,
            "error: a/b may not be read or written by this user; change its permissions or give another path.\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, line: str
) -> None:
    assert execute(failing(error)) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_with_path_and_remedy(capsys: pytest.CaptureFixture[str], number: int) -> None:
    assert execute(failing(OSError(number, os.strerror(number), "runs/3/part"))) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: The disk is full: runs/3/part could not be written")
    assert "--resume goes on" in shown
    assert shown.count("\n") == 1


def test_a_full_disk_without_a_path_names_the_run_folder() -> None:
    assert "runs/3 could not be written" in str(explain(OSError(errno.ENOSPC, "No space left on device"), "runs/3"))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_too_little_memory_asks_for_smaller_batches(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    assert execute(failing(error)) == 1
    assert "give a smaller --stage_a.batch_size or --outcomes.batch_size" in capsys.readouterr().err


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/3/part")


@pytest.mark.parametrize(
    ("error", "kept", "advice", "line"),
    [
        (
            FULL,
            "runs/3",
            Advice(again="the same command starts again", elsewhere="--out_dir"),
            "The disk is full: runs/3/part could not be written (No space left on device); free some space or give "
            "another --out_dir. What is finished is kept in runs/3; the same command starts again.",
        ),
        (
            FULL,
            "",
            Advice(elsewhere=None),
            "The disk is full: runs/3/part could not be written (No space left on device); free some space.",
        ),
        (
            MemoryError(),
            "runs/3",
            Advice(memory="fewer --pareto.workers"),
            "Not enough memory (MemoryError); give fewer --pareto.workers.",
        ),
        (
            MemoryError(),
            "runs/3",
            Advice(memory=None),
            "Not enough memory (MemoryError); close other programs, or use a machine with more.",
        ),
    ],
)
def test_the_machine_s_limits_come_with_the_advice_of_the_command(
    error: Exception, kept: str, advice: Advice, line: str
) -> None:
    assert explain(error, kept, advice) == line


def test_every_command_advises_options_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verb's call of `run` is read; the options in its advice must be among those of its `--help`."""
    found: dict[str, tuple[Any, Advice]] = {}
    package = Path(safe_rl.__file__).parent
    for path in sorted(package.glob("*.py")):
        if "if __name__" not in path.read_text(encoding="utf-8"):
            continue  # no verb
        module = importlib.import_module(f"safe_rl.{path.stem}")

        def note(work: Any, config_type: Any, argv: Any, *, name: str, advice: Advice = PIPELINE, **_: Any) -> int:
            found[name] = (config_type, advice)
            return 0

        monkeypatch.setattr(module, "run", note)
        assert module.main([]) == 0
    assert len(found) == 12
    found |= {"workers of pareto": (RunConfig, sweep.WORKERS), "workers of tune": (TuneRun, WORKERS)}
    for name, (config_type, advice) in found.items():
        told = " ".join(filter(None, (advice.again, advice.elsewhere, advice.memory)))
        for option in re.findall(r"--([\w.]+)", told):
            place = config_type
            for part in option.split("."):
                hints = typing.get_type_hints(place)
                assert part in hints, f"{name} has no --{option}"
                place = hints[part]


def test_a_wrong_option_is_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(lambda job: None, "--sise", "3") == 2
    assert "unknown option --sise, did you mean --size" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_what_is_kept(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    assert execute(lambda job: signal.raise_signal(number)) == code
    told = "Interrupted. What is finished is kept in runs/3; the same command with --resume goes on."
    assert capsys.readouterr().err.strip() == told


def test_an_interruption_that_surfaces_as_another_error_is_still_one() -> None:
    def work(job: Job) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half an extension module") from None

    assert execute(work) == 130


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    execute(lambda job: None)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="ours"):
        execute(failing(ZeroDivisionError("ours")))
