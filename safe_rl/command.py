"""What every command shares: argv to a checked configuration, and an exception to one line and an exit code.

In: argv, YAML files, and the frozen dataclass that the command reads. Out: the command's exit code. 0: done.
1: something that was given, or the machine, stands in the way; one line on stderr says what to do. 2: the command line
or the YAML is wrong. 130, 143: interrupted. Exceptions that nobody foresaw are our mistakes and keep their traceback.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from supervised.errors import ConfigError, ProcessError, SafeError
from supervised.processes import Processes, main_by_launcher

Config = TypeVar("Config")

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

LAST_WORD_SECONDS = 20.0

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment for libraries that would write between our lines; what the user has set wins."""


@dataclass(frozen=True)
class Advice:
    """What a command tells a user whom the machine stopped; every verb gives what it really has."""

    again: str = "the same command with --resume goes on"
    """What a second call does with what is finished."""
    elsewhere: str | None = "--run_dir"
    """Option that says where the command writes; None: it writes nothing."""
    memory: str | None = (
        "a smaller --stage_a.batch_size or --outcomes.batch_size while the table is made, a smaller "
        "--smoothing.max_rows after it"
    )
    """What needs less memory; None: no setting does."""


PIPELINE = Advice()
"""Of the commands that make whatever is missing up to an outcome table, and learn from it."""


def run(
    work: Callable[[Config], None],
    config_type: type[Config],
    argv: list[str] | None,
    *,
    name: str,
    description: str,
    folder: Callable[[Config], str],
    advice: Advice = PIPELINE,
    shared: bool = False,
) -> int:
    """Parse `argv`, do the work, and return the exit code.

    Args:
        work: what the command does with its configuration; heavy imports happen inside it.
        config_type: a frozen dataclass; its field docstrings are the help.
        argv: arguments without the program's name; None: those of the process.
        name: the verb, as in `python -m safe_rl.<name>`.
        description: what `--help` opens with.
        folder: where the command keeps what is finished, for the line that an interruption prints.
        advice: how to go on after an interruption, a full disk or too little memory.
        shared: whether the processes of one `accelerate launch` share the work; of another command only one is run.
    """
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    with _interruptible() as interruption, _one_voice():
        kept, processes = "", None
        try:
            config = _parse(config_type, argv, name, description)
            kept = folder(config)
            processes = _processes(config, name, shared)
            work(config)
            processes.close()
        except SystemExit as error:  # --help and --print_config
            return int(error.code or 0)
        except BaseException as error:
            # A signal during an import may surface as some other exception, so the signal counts, not the type.
            if interruption.number is not None or isinstance(error, KeyboardInterrupt):
                if not main_by_launcher():
                    return 128 + (interruption.number or 2)
                said = _one_line(error) if isinstance(error, KeyboardInterrupt) and str(error) else ""  # it knows more
                told = said or (f"{_kept(kept, advice)}." if kept else "")
                return _say(f"Interrupted. {told}".strip(), 128 + (interruption.number or 2))
            if not main_by_launcher() and (processes is None or isinstance(error, ProcessError)):
                _leave_the_word()
                return 1
            line = explain(error, kept, advice)
            if line is None:
                raise
            return _say(line, 2 if isinstance(error, ConfigError) else 1)
    return 0


def _kept(folder: str, advice: Advice) -> str:
    return f"What is finished is kept in {folder}; {advice.again}"


def explain(error: BaseException, kept: str = "", advice: Advice = PIPELINE) -> str | None:
    """Return the one line that says what happened and what to do; None: it is a mistake of ours, keep the traceback.

    Args:
        error: what ended the command, or one of its workers.
        kept: folder where the command keeps what is finished; empty: it keeps nothing.
        advice: of the command.
    """
    if isinstance(error, SafeError):
        return _one_line(error)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output is gone; the interpreter must not fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "The reader of the output is gone; run the command again without the pipe, or into a file."
    if isinstance(error, OSError):
        return _explain_os_error(error, kept, advice)
    if _out_of_memory(error):
        remedy = "close other programs, or use a machine with more"
        if advice.memory is not None:
            remedy = f"give {advice.memory}"
        return f"Not enough memory ({_one_line(error)[:120]}); {remedy}."
    return None


def _explain_os_error(error: OSError, kept: str, advice: Advice) -> str:
    where = str(error.filename or kept or "a file")
    if error.errno in DISK_FULL:
        other = f" or give another {advice.elsewhere}" if advice.elsewhere is not None else ""
        told = f" {_kept(kept, advice)}." if kept else ""
        reason = os.strerror(error.errno)
        return f"The disk is full: {where} could not be written ({reason}); free some space{other}.{told}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{where} does not exist; check the path, or create it."
    if isinstance(error, PermissionError) and error.filename:
        return f"{where} may not be read or written by this user; change its permissions or give another path."
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError) and error.filename:
        return f"{where} is in the way ({error.strerror}); move it or give another path."
    return f"The system refused: {_one_line(error)}; check the path and try again."


def _out_of_memory(error: BaseException) -> bool:
    # torch is not imported here for its exception types: the CPU allocator raises a bare RuntimeError anyway.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _say(line: str, code: int) -> int:
    print(f"error: {line}" if code < 128 else f"\n{line}", file=sys.stderr)
    return code


@dataclass
class _Interruption:
    """The signal that arrived, or None."""

    number: int | None = None


@contextmanager
def _interruptible() -> Iterator[_Interruption]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt and remember which it was; handlers are put back afterwards."""
    interruption = _Interruption()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interruption.number = number
        raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are not ours to handle
        before = {}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Let only the main process of a launch print results; errors go to stderr, which stays open."""
    if main_by_launcher():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _leave_the_word() -> None:
    """Wait while the main process says what all of them found: the launcher ends it when another one has failed."""
    with suppress(KeyboardInterrupt):
        time.sleep(LAST_WORD_SECONDS)


def _processes(config: Any, name: str, shared: bool) -> Processes:
    """Return the processes of the run, all of the same configuration.

    Raises:
        ConfigError: there are several, and the command is one process's work.
    """
    from safe_rl.options import to_dict

    processes = Processes.current()
    if processes.count > 1 and not shared:
        raise ConfigError(
            f"{name} is the work of one process; start it as python -m safe_rl.{name}, without a launcher."
        )
    processes.same(to_dict(config), "configuration")
    return processes


def _parse(config_type: type[Config], argv: list[str] | None, name: str, description: str) -> Config:
    from safe_rl.options import parse  # jsonargparse: imported late, inside the interruptible block

    return parse(config_type, sys.argv[1:] if argv is None else argv, f"python -m safe_rl.{name}", description)
