"""The gate sweep: what every gate from 0 to 1 gains on questions that need audio, and costs on those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GateSweep:
    """The scores of n questions under G gates."""

    gates: tuple[float, ...]
    """Rising, the first is 0: the base."""
    scores: np.ndarray
    """float64 [G, n]."""
    retention: np.ndarray
    """bool [n]: the question needs no audio."""

    def figures(self) -> list[dict[str, Any]]:
        """Return accuracy on audio questions, retention score, drop and harm of every gate, in fractions."""
        result = []
        for gate, scores in zip(self.gates, self.scores, strict=True):
            base, achieved = self.scores[0][self.retention], scores[self.retention]
            result.append(
                {
                    "gate": gate,
                    "audio_accuracy": float(scores[~self.retention].mean()),
                    "retention_score": float(achieved.mean()),
                    "drop": float((base - achieved).mean()),
                    "harm": float(((base > 0.5) & (achieved <= 0.5)).mean()),
                }
            )
        return result

    @property
    def drop(self) -> float:
        """Return the drop at the last gate."""
        return float((self.scores[0] - self.scores[-1])[self.retention].mean())


def sweep(gates: Sequence[float], scores: Sequence[np.ndarray], retention: np.ndarray) -> GateSweep:
    """Return the sweep of one array of scores [n] per gate."""
    return GateSweep(tuple(gates), np.stack(list(scores)), retention)
