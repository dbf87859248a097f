"""Where two trees of plain values differ: both go in, every differing key comes out with its two values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(there: Any, here: Any, absent: Any = None, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, value there, value here) wherever two trees of dictionaries differ.

    Args:
        there: what was found.
        here: what is wanted; lists and tuples are told apart, so pass both trees as JSON gives them back.
        absent: stands for the value of a key that one side lacks.
        key: dotted key of the trees themselves.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in dict.fromkeys([*there, *here]):
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(there.get(name, absent), here.get(name, absent), absent, inner)
    elif there != here:
        yield key, there, here
