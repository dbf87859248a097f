"""Batches read ahead while the model computes: what is drawn, made ready in a second thread, in the order of the draws.

In: a source of rows with a state, such as `Rows`, and what makes a batch of rows. Out: batches, each with the state of
the source right after its draw, so that a run that goes on from there draws what it would have drawn, however far was
read ahead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

AHEAD = 2
"""Batches that are read ahead of a streamed set."""
T = TypeVar("T")


class Source(Protocol):
    """Rows, draw by draw."""

    def draw(self) -> Sequence[int]:
        """Return the rows of the next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return where the draws stand."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called."""
        ...


@dataclass(frozen=True)
class _Drawn(Generic[T]):
    rows: Sequence[int]
    state: dict[str, Any]
    number: int
    batch: Future[T] | None


class Reader(Generic[T]):
    """Iterates without end over batches and the source's state after each.

    The source is only used in the thread that iterates, `make` only in the other one, unless nothing is read ahead. To
    change what the source draws, `rewind`, change it, and go on. Use it as a context manager, or `close` it.

    Args:
        source: of the rows.
        make: rows and the draw's number to a batch.
        number: of the next draw.
        ahead: batches that are made ready beside the one that is handed out; 0: none, in a plain loop.
    """

    def __init__(
        self, source: Source, make: Callable[[Sequence[int], int], T], number: int = 0, ahead: int = 0
    ) -> None:
        self.source, self.make, self.number, self.ahead = source, make, number, ahead
        self.waited = 0.0
        """Seconds in which whoever iterates waited for a batch."""
        self.state = source.get_state()
        """The source's state after the batch that was handed out last."""
        self._queue: deque[_Drawn[T]] = deque()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") if ahead > 0 else None

    def __iter__(self) -> Iterator[tuple[T, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[T, dict[str, Any]]:
        """Return the next batch, and the source's state after its draw; an error in making it is raised here."""
        if not self._queue:
            self.state = self.source.get_state()  # it may have been changed since it was rewound
        while len(self._queue) <= self.ahead:
            self._queue.append(self._draw())
        drawn, start = self._queue[0], time.perf_counter()
        try:
            batch = self.make(drawn.rows, drawn.number) if drawn.batch is None else drawn.batch.result()
        finally:
            self.waited += time.perf_counter() - start
        self._queue.popleft()
        self.number, self.state = drawn.number + 1, drawn.state
        return batch, drawn.state

    def rewind(self) -> None:
        """Drop what was read ahead; the source stands again where the batch handed out last left it."""
        while self._queue:
            drawn = self._queue.pop()
            if drawn.batch is not None:
                drawn.batch.cancel()
        self.source.set_state(self.state)

    def close(self) -> None:
        """Rewind, and wait for the other thread to end."""
        self.rewind()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Reader[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self) -> _Drawn[T]:
        number = self.number + len(self._queue)
        rows = self.source.draw()
        batch = None if self._pool is None else self._pool.submit(self.make, rows, number)
        return _Drawn(rows, self.source.get_state(), number, batch)
