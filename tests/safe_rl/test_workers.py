"""Processes that work for a command: what they finish is told, and what ends one is told as what it is."""

from __future__ import annotations

import multiprocessing
import timeit
from functools import partial

import pytest

from safe_rl.command import PIPELINE, Advice
from safe_rl.workers import Work, run_workers
from supervised.errors import SafeError

FOREVER = "import time; time.sleep(600)"
KILLED = "import os; os.kill(os.getpid(), 9)"


def work(statement: str) -> Work:
    """Something a process can be handed: it tells once, as timeit's second argument is its set-up, then does this."""
    return partial(timeit.timeit, statement, number=1)  # type: ignore[return-value]  # the seconds it took are left alone


def refuse(number: int) -> None:
    raise AssertionError(f"killed by signal {number}")


def test_everything_that_is_finished_is_told() -> None:
    told: list[int] = []
    run_workers([work("pass"), work("pass")], partial(told.append, 1), refuse, "", PIPELINE)
    assert told == [1, 1]


def test_a_worker_that_is_killed_is_told_by_its_signal_and_the_others_go_on() -> None:
    told: list[int] = []
    killed: list[int] = []
    run_workers([work(KILLED), work("pass")], partial(told.append, 1), killed.append, "", PIPELINE)
    assert (told, killed) == ([1, 1], [9])


@pytest.mark.parametrize(
    ("statement", "kind", "line"),
    [
        ("from supervised.errors import TableError; raise TableError('give it rows')", SafeError, "^give it rows$"),
        ("open('gone/file')", SafeError, "^gone/file does not exist; check the path"),
        ("len(3)", RuntimeError, "^a worker ended with exit code 1$"),
    ],
)
def test_what_ends_a_worker_ends_the_others(statement: str, kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line):
        run_workers([work(FOREVER), work(statement)], lambda: None, refuse, "", PIPELINE)
    assert not multiprocessing.active_children()


def test_a_worker_without_memory_tells_what_its_command_advises() -> None:
    advice = Advice(memory="fewer --pareto.workers")
    with pytest.raises(SafeError, match=r"^Not enough memory \(MemoryError\); give fewer --pareto\.workers\.$"):
        run_workers([work("raise MemoryError")], lambda: None, refuse, "", advice)
