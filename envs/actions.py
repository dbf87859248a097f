"""The actions of a question, in the order of the columns of every outcome table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Action(IntEnum):
    """What to do with a question; actions above USE, where a table has them, are USE with other token budgets."""

    SKIP = 0
    """Answer with the base model alone."""
    USE = 1
    """Pay for the audio and answer with base and adapter."""


def action_names(budgets: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the actions: skip and use, or skip and one use per token budget.

    >>> action_names(()), action_names((4, 8))
    (('skip', 'use'), ('skip', 'use_4', 'use_8'))
    """
    return ("skip", *(f"use_{budget}" for budget in budgets)) if budgets else ("skip", "use")


def action_tokens(budgets: Sequence[int], tokens: int) -> tuple[int, ...]:
    """Return the audio tokens of every action, of `tokens` at most.

    >>> action_tokens((), 8), action_tokens((2, 4), 8)
    ((0, 8), (0, 2, 4))
    """
    return (0, *(budgets or (tokens,)))
