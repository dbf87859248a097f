"""What was decided, question by question: a line of JSON per row of a split, with one entry per policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from envs.outcomes import TableSplit


def write_decisions(path: Path, rows: TableSplit, decisions: np.ndarray, chances: np.ndarray) -> None:
    """Write id, probabilities of use and actions of every row.

    Args:
        path: of the JSON lines.
        rows: n rows.
        decisions: int64 [S, n], of S policies.
        chances: probability of use, float [S, n].
    """
    from supervised.files import write_text

    lines = (
        json.dumps({"id": str(name), "use_probability": chance, "action": action})
        for name, chance, action in zip(
            rows.ids, chances.T.astype(float).round(6).tolist(), decisions.T.tolist(), strict=True
        )
    )
    write_text(path, "\n".join(lines) + "\n")
