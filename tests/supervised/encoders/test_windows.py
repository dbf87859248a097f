from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervised.encoders.windows import window_starts


@given(st.integers(1, 10_000), st.integers(1, 500))
def test_windows_cover_the_clip_and_nothing_else(length: int, window: int) -> None:
    starts = window_starts(length, window)
    covered = {i for start in starts for i in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert len(starts) == max(1, -(-length // window))
    assert length <= window or starts[-1] + window == length
