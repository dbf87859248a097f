"""Smaller tables out of larger ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.outcomes import OutcomeTable
from envs.subset import subset_table
from supervised.errors import TableError


def test_a_subset_keeps_the_first_rows_of_every_split_and_the_unit(synthetic_table: Path, tmp_path: Path) -> None:
    whole = OutcomeTable.open(synthetic_table)
    part = subset_table(synthetic_table, tmp_path / "small", 150)
    assert part.splits == {"train": 150, "validation": 150, "calibration": 100, "test": 150}
    assert part.latency_unit_ms == whole.latency_unit_ms
    assert part.parts[0]["question"].dtype == np.float16
    for name in ("train", "test"):
        small, large = part.split(name), whole.split(name)
        np.testing.assert_array_equal(small.score, large.score[:150])
        np.testing.assert_allclose(small.features["image"][:], large.features["image"][:150], atol=2e-3)
        assert small.record(149) == large.record(149)
    assert part.provenance["subset_of"] == whole.fingerprint


def test_a_subset_is_not_written_over_a_finished_table(synthetic_table: Path, tmp_path: Path) -> None:
    subset_table(synthetic_table, tmp_path / "small", 10)
    with pytest.raises(TableError, match="finished table"):
        subset_table(synthetic_table, tmp_path / "small", 10)
    with pytest.raises(TableError, match="rows_per_split must be at least 1, got 0"):
        subset_table(synthetic_table, tmp_path / "none", 0)
