from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.data.facts import Facts, facts_of
from supervised.data.mixture import MixtureSampler
from supervised.data.sample import Sample
from supervised.stage_a.reading import Reader


def facts(count: int = 40) -> Facts:
    """Every second question needs no audio; all have a clip."""
    sets = (None, "gqa")
    return facts_of(Sample(f"music-{i}", "?", ("a",), None, Path("a.wav"), sets[i % 2]) for i in range(count))


class Rows:
    """A mixture of audio and retention questions, its rows as a list of integers."""

    def __init__(self) -> None:
        self.sampler = MixtureSampler(facts(), 6, audio_share=0.4)
        self.get_state, self.set_state = self.sampler.get_state, self.sampler.set_state

    def draw(self) -> list[int]:
        return [int(row) for row in self.sampler.draw()]


def interrupt(timeout: float | None = None) -> NoReturn:
    raise KeyboardInterrupt


def made(rows: Sequence[int], number: int) -> tuple[int, list[int]]:
    return number, [int(row) for row in rows]


def batches(reader: Reader[Any], count: int) -> list[Any]:
    return [next(reader)[0] for _ in range(count)]


def test_batches_come_in_the_order_of_the_draws_however_many_are_read_ahead() -> None:
    plain = Rows()
    expected = [(number, plain.draw()) for number in range(12)]
    for ahead in (0, 1, 5):
        with Reader(Rows(), made, ahead=ahead) as reader:
            assert batches(reader, 12) == expected


@settings(deadline=None, max_examples=30)
@given(before=st.integers(0, 12), after=st.integers(1, 8), ahead=st.integers(0, 4), later=st.integers(0, 4))
def test_a_reader_goes_on_from_the_state_of_the_batch_handed_out(
    before: int, after: int, ahead: int, later: int
) -> None:
    with Reader(Rows(), made, ahead=ahead) as whole:
        state = whole.state
        for _ in range(before):
            _, state = next(whole)
        expected = batches(whole, after)
    source = Rows()
    source.set_state(json.loads(json.dumps(state)))
    with Reader(source, made, number=before, ahead=later) as resumed:
        assert batches(resumed, after) == expected


def test_closing_leaves_the_source_where_the_last_batch_left_it() -> None:
    source = Rows()
    with Reader(source, made, ahead=4) as reader:
        _, state = next(reader)
        assert source.get_state() != state  # read ahead
    assert source.get_state() == state


def with_interruption(reader: Reader[Any]) -> None:
    """Ask for a batch and be interrupted while it is drawn, then rewind."""
    draw = reader._draw
    reader._draw = interrupt  # type: ignore[method-assign]
    try:
        next(reader)
    finally:
        reader._draw = draw  # type: ignore[method-assign]
        reader.rewind()


def test_rewinding_draws_anew_what_was_read_ahead() -> None:
    class Source:
        def __init__(self) -> None:
            self.first, self.drawn = 0, 0

        def draw(self) -> list[int]:
            self.drawn += 1
            return [self.first + self.drawn]

        def get_state(self) -> dict[str, Any]:
            return {"first": self.first, "drawn": self.drawn}

        def set_state(self, state: Any) -> None:
            self.first, self.drawn = state["first"], state["drawn"]

    source = Source()
    with Reader(source, made, number=10, ahead=3) as reader:
        assert batches(reader, 2) == [(10, [1]), (11, [2])]
        reader.rewind()
        source.first = 100
        with pytest.raises(KeyboardInterrupt):
            with_interruption(reader)
        assert source.first == 100  # the change is not rewound
        assert batches(reader, 2) == [(12, [103]), (13, [104])]


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_is_raised_at_its_batch_and_not_before(ahead: int) -> None:
    def fails(rows: Sequence[int], number: int) -> int:
        if number == 2:
            raise ValueError("broken")
        return number

    source = Rows()
    with Reader(source, fails, ahead=ahead) as reader:
        assert batches(reader, 2) == [0, 1]
        state = reader.state
        with pytest.raises(ValueError, match="broken"):
            next(reader)
    assert source.get_state() == state


def test_batches_are_made_beside_the_thread_that_uses_them_and_waiting_is_counted() -> None:
    threads: list[str] = []

    def slow(rows: Sequence[int], number: int) -> int:
        threads.append(threading.current_thread().name)
        time.sleep(0.05)
        return number

    with Reader(Rows(), slow, ahead=2) as reader:
        for _ in range(6):
            next(reader)
            time.sleep(0.08)
        assert 0.04 < reader.waited < 0.2  # the first only
    with Reader(Rows(), slow) as plain:
        batches(plain, 4)
        assert plain.waited >= 0.2
    assert all(name.startswith("reader") for name in threads[:6])
    assert threads[-4:] == [threading.main_thread().name] * 4


def test_an_interruption_while_waiting_loses_no_batch_and_ends_the_thread() -> None:
    started, go_on = threading.Event(), threading.Event()

    def waits(rows: Sequence[int], number: int) -> int:
        started.set()
        go_on.wait(10)
        return number

    source = Rows()
    before = source.get_state()
    reader = Reader(source, waits, ahead=2)
    reader._queue.append(reader._draw())
    started.wait(10)
    future = reader._queue[0].batch
    assert future is not None
    result = future.result
    future.result = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        next(reader)
    future.result = result  # type: ignore[method-assign]
    assert reader.state == before
    go_on.set()
    assert next(reader)[0] == 0
    reader.close()
    assert not any(thread.name.startswith("reader") for thread in threading.enumerate())
