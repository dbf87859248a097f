"""Synthetic outcome tables whose best policy is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.table_format import TABLE_SPLITS, Header
from envs.table_writer import TableWriter

WIDTHS = {"question": 6, "image": 4, "audio_preview": 5, "confidence": 6}
LATENCY = (10.0, 22.5)
"""Extra latency 12.5 ms, so that the unit (four times the mean) is 50 ms: an audio call costs alpha / 4."""


def synthetic_rows(rows: int, seed: int, first: int = 0) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Rows of four kinds, told apart by the sign of two features.

    question[0]  confidence[0]  kind              score skip, use   best action (0 < alpha < 4)
    -            any            retention "vl"    1, 1              SKIP
    +            -              audio, needed     0, 1              USE
    +            +              audio, guessed    1, 1              SKIP
    and one retention row in ten, told by image[0] > 0, loses its answer with audio: 1, 0 (SKIP).

    Utility of the best policy at (alpha, gamma): mean score 1, minus alpha / 4 on a quarter of the rows.
    """
    generator = np.random.default_rng([seed, first])
    tensors = {name: generator.normal(0, 0.1, (rows, width)).astype(np.float32) for name, width in WIDTHS.items()}
    index = first + np.arange(rows)
    retention = index % 2 == 0
    needed = index % 4 == 1
    harmed = index % 20 == 0
    tensors["question"][:, 0] += np.where(retention, -3, 3)
    tensors["confidence"][:, 0] += np.where(needed, -3, 3)
    tensors["image"][:, 0] += np.where(harmed, 3, -3)
    score = np.ones((rows, 2), dtype=np.float32)
    score[needed, 0] = 0
    score[harmed, 1] = 0
    tensors |= {
        "score": score,
        "latency_ms": np.tile(np.array(LATENCY, dtype=np.float32), (rows, 1)),
        "retention_set": np.where(retention, 0, -1).astype(np.int16),
        "group": (index // 3).astype(np.int64),
    }
    records = [
        {
            "id": f"row-{i}",
            "question": f"question {i} ?",
            "answers": ["yes"],
            "type": "vl" if i % 2 == 0 else "audio",
            "predictions": ["no" if i % 4 == 1 else "yes", "no" if i % 20 == 0 else "yes"],
        }
        for i in index.tolist()
    ]
    return tensors, records


def build_synthetic_table(
    directory: Path, sizes: Sequence[int] = (400, 200, 100, 200), rows_per_part: int = 256, seed: int = 0
) -> Path:
    """Write a table with `sizes` rows in train, validation, calibration and test."""
    split = np.repeat(np.arange(len(TABLE_SPLITS)), sizes).astype(np.uint8)
    writer = TableWriter(directory, Header(("skip", "use"), WIDTHS, ("vl",), provenance={"seed": seed}))
    for first in range(writer.position, len(split), rows_per_part):
        part = split[first : first + rows_per_part]
        tensors, records = synthetic_rows(len(part), seed, first)
        writer.write_part({**tensors, "split": part}, records, first + len(part))
    writer.finish()
    return directory
