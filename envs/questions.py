"""The questions of a table: all splits one after the other, each sample with the code of its split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envs.table_format import TABLE_SPLITS
from supervised.data.sample import Sample
from supervised.data.source import located
from supervised.errors import DataError, TableError


class Questions(Sequence[tuple[int, Sample]]):
    """All splits one after the other: split code and sample."""

    def __init__(self, splits: Mapping[str, Sequence[Sample]]) -> None:
        unknown = set(splits) - set(TABLE_SPLITS)
        if unknown:
            raise TableError(f"splits {sorted(unknown)} are unknown; allowed: {', '.join(TABLE_SPLITS)}.")
        self.parts = [(code, splits[name]) for code, name in enumerate(TABLE_SPLITS) if splits.get(name)]
        self.sizes = {TABLE_SPLITS[code]: len(samples) for code, samples in self.parts}
        if not self.parts:
            raise TableError("a table needs at least one question, got none; check the data and its splits.")

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, index: Any) -> Any:
        code, samples, place = self._find(index)
        return code, samples[place]

    def located(self, index: int, error: DataError) -> DataError:
        """Return the error about a question with file and line, where it has such."""
        _, samples, place = self._find(index)
        return located(samples, place, str(error))

    def _find(self, index: int) -> tuple[int, Sequence[Sample], int]:
        """Return the code and the samples of the split that a question is in, and its place among them."""
        for code, samples in self.parts:
            if index < len(samples):
                return code, samples, index
            index -= len(samples)
        raise IndexError(index)
