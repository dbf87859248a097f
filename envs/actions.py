"""The actions of a question, in the order of the columns of every outcome table."""

from __future__ import annotations

from enum import IntEnum


class Action(IntEnum):
    """What to do with a question; actions above USE, where a table has them, are USE with other token budgets."""

    SKIP = 0
    """Answer with the base model alone."""
    USE = 1
    """Pay for the audio and answer with base and adapter."""
