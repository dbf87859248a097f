"""Prompts with their columns rearranged, for passes that need other columns than the caller's prompts have.

In: left-padded prompts (B, L) and everything that has a value per token. Out: the same in M columns. A new column may
hold an audio token, or nothing, where rows of other lengths are to end together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supervised.losses import IGNORED


@dataclass(frozen=True)
class Layout:
    """Where the M columns of the rearranged prompts come from."""

    source: Tensor
    """int64 (B, M): a column of the prompts, in rising order, or -1 for a new one."""

    @classmethod
    def inserting(cls, at: Tensor, count: int, length: int) -> Layout:
        """Return prompts of `length` columns with `count` new ones before the column `at` (B,) of each row."""
        column = torch.arange(length + count, device=at.device).expand(len(at), -1)  # (B, M)
        source = torch.where(column < at[:, None], column, column - count)
        inserted = (column >= at[:, None]) & (column < at[:, None] + count)
        return cls(source.masked_fill(inserted, -1))

    @classmethod
    def aligning(cls, begin: Tensor, end: Tensor, length: int) -> tuple[Layout, int]:
        """Return prompts of `length` columns whose parts [begin, end) and [end, length) end together in all rows.

        `begin` and `end` are (B,); what lies before `begin` is left out. Also return where the first parts end.
        """
        first, second = int((end - begin).max()), int((length - end).max())
        column = torch.arange(first + second, device=end.device).expand(len(end), -1)  # (B, M)
        early = column - first + end[:, None]  # the first part ends at column `first`
        late = column - (first + second) + length
        source = torch.where(column < first, early, late)
        new = torch.where(column < first, early < begin[:, None], late < end[:, None])
        return cls(source.masked_fill(new, -1)), first

    @property
    def new(self) -> Tensor:
        """Return bool (B, M), True for the new columns."""
        return self.source < 0

    def spread(self, values: Tensor, fill: float = 0) -> Tensor:
        """Return (B, M) for the values (B, L); new columns get `fill`."""
        return values.gather(1, self.source.clamp(min=0)).masked_fill(self.new, fill)

    def arguments(self, inputs: Mapping[str, Any], placeholder: int) -> dict[str, Any]:
        """Return the base's arguments in M columns; new ones are not attended to and hold the token `placeholder`."""
        ids = inputs["input_ids"]  # (B, L)
        fill = {"input_ids": placeholder, "labels": IGNORED}
        arguments = dict(inputs)
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == ids.shape:
                arguments[name] = self.spread(value, fill.get(name, 0))
        attended = inputs.get("attention_mask")
        return arguments | {"attention_mask": self.spread(torch.ones_like(ids) if attended is None else attended)}

    def restore(self, values: Tensor, keep: int = 0) -> Tensor:
        """Return what belongs to old columns in `values` (B, m, ...), which has the last m of M columns.

        Args:
            values: hidden states or logits; with beams every row several times in place.
            keep: how many of the old columns to return, the last ones; 0: all.
        """
        count = values.shape[1]
        old = ~self.new[:, -count:]  # (B, m)
        width = keep or int(old.sum(1).min())
        index = old.int().argsort(dim=1, stable=True)[:, -width:]  # (B, width): where the last old columns are
        index = index.repeat_interleave(len(values) // len(index), 0)
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, index]
