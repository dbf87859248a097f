"""Figures by step, as lines of `metrics.jsonl` and as scalars for a tracker.

A line is `{"step", "kind", ...figures}` and holds nothing that depends on the clock, so that a run that was stopped
and went on leaves the same file as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from supervised.files import write_text
from supervised.trackers import open_tracker


class MetricsLog:
    """Appends to the logs of one folder."""

    def __init__(self, folder: Path, step: int, lines: int, tracker: str = "tensorboard") -> None:
        """Go on after the first `lines` lines, which led to `step`; what was logged after them is dropped."""
        path = folder / "metrics.jsonl"
        kept = path.read_bytes().split(b"\n")[:lines] if path.exists() else []
        write_text(path, "".join(line.decode() + "\n" for line in kept if line))
        self._file = open(path, "a", encoding="utf-8")
        self._tracker = open_tracker(tracker, folder, purge_step=step + 1 if step else None)

    def write(self, step: int, kind: str, figures: Mapping[str, float]) -> None:
        """Log the figures of a step, at once readable by others."""
        self._file.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
        self._file.flush()
        self._tracker.add(step, {f"{kind}/{name}": value for name, value in figures.items()})

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._tracker.close()
