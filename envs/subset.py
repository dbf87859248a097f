"""A smaller table out of a larger one: the first questions of every split, features as float16.

The table that ships with the package is made so; rewards keep their meaning, because the latency unit is kept.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.cost import PROFILE
from envs.features import as_stored
from envs.outcomes import OutcomeTable
from envs.table_format import COLUMNS, TABLE_SPLITS
from envs.table_writer import TableWriter
from supervised.errors import TableError


def subset_table(source_dir: Path | str, out_dir: Path | str, rows_per_split: int) -> OutcomeTable:
    """Write the first `rows_per_split` rows of every split of a table as a table of one part.

    Args:
        source_dir: A finished table.
        out_dir: The folder to write; it must not hold a finished table.
        rows_per_split: Rows to take; a split that has fewer gives all it has.

    Raises:
        TableError: the source cannot be opened, or `out_dir` holds a finished table already.
    """
    if rows_per_split < 1:
        raise TableError(f"rows_per_split must be at least 1, got {rows_per_split}; use e.g. 400.")
    source = OutcomeTable.open(source_dir)
    names = [name for name in TABLE_SPLITS if source.splits[name]]
    rows = np.concatenate([source.split(name).rows[:rows_per_split] for name in names])
    provenance: dict[str, Any] = {
        **source.provenance,
        "subset_of": source.fingerprint,
        "rows_per_split": rows_per_split,
    }
    writer = TableWriter(out_dir, replace(source.header, provenance=provenance))
    if writer.finished:
        raise TableError(f"{out_dir} holds a finished table; write into another folder, or delete this one.")
    if writer.position < len(rows):
        features = [name for name, width in source.widths.items() if width]
        tensors = {name: source.gather(name, rows) for name in (*features, *COLUMNS)}
        tensors |= {name: as_stored(tensors[name], "float16") for name in features}
        writer.write_part(tensors, [source.record(int(row)) for row in rows], position=len(rows))
    if (Path(source_dir) / PROFILE).is_file():
        shutil.copyfile(Path(source_dir) / PROFILE, Path(out_dir) / PROFILE)
    writer.finish(source.latency_unit_ms)
    return OutcomeTable.open(out_dir)
