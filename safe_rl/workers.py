"""Processes that work for a command: one piece of work for each goes in, a call for everything they finish comes out.

None of them is left behind, however the command ends.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from safe_rl.command import Advice, explain
from supervised.errors import SafeError

Tell = Callable[[], object]
Work = Callable[[Tell], None]
"""What one process does; it calls what it is given whenever something is finished."""


def run_workers(
    works: Sequence[Work], finished: Tell, killed: Callable[[int], None], kept: str, advice: Advice
) -> None:
    """Do each piece of work in a process of its own, and return when all are done.

    Args:
        works: can be pickled; a partial of a module's function.
        finished: called in this process whenever a worker has finished something.
        killed: called with the number of the signal that killed a worker; the others go on unless it raises.
        kept: where the command keeps what is finished, for the line that an error of the system prints.
        advice: what that line tells to do.

    Raises:
        SafeError: a worker met something that a user can mend.
        RuntimeError: a worker died of a mistake of ours; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, Any] = {}
    try:
        with _no_interrupts():  # inherited by the workers: Ctrl-C reaches only us, and we end them
            for work in works:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_do, args=(theirs, work, kept, advice), daemon=True)
                process.start()
                theirs.close()
                running[ours] = process
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                try:
                    line = ready.recv()
                except EOFError:
                    _ended(running.pop(ready), killed)
                    continue
                if line is not None:
                    raise SafeError(line)
                finished()
    finally:
        for process in running.values():
            process.terminate()
            process.join()


def _ended(process: Any, killed: Callable[[int], None]) -> None:
    process.join()
    if process.exitcode > 0:
        raise RuntimeError(f"a worker ended with exit code {process.exitcode}") from None
    if process.exitcode < 0:
        killed(-process.exitcode)


def _do(parent: Connection, work: Work, kept: str, advice: Advice) -> None:
    """Work in a process of its own; tell the parent None when something is finished, or a line of trouble."""
    try:
        work(partial(parent.send, None))
    except BrokenPipeError:
        sys.exit(0)  # the parent is gone, and told whoever has to know
    except Exception as error:
        line = explain(error, kept, advice)
        if line is None:
            raise
        parent.send(line)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
