"""The weights of the terms of Stage A's loss, step by step: as configured, by stage, or raised where a goal is missed.

In: the configured weights, the stage of the curriculum, and the figures of evaluations. Out: a weight for each term.
Configured weights are factors throughout, so that a term whose weight is 0 is never computed:

    weight of a term = configured * of the stage (stages) * raised (adaptive; after a roll-back)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervised.stage_a.config import TERMS, AudioCurriculumConfig, LossConfig
from supervised.stage_a.curriculum import accuracy_missed, retention_missed

HOLDING = ("distill", "feature", "fisher")
"""Terms that hold the model near its base."""
STAGE_TABLE = {
    "task": (1.0, 1.0, 1.0, 1.0),
    "feature": (0.1, 0.3, 0.5, 0.7),
    "distill": (0.5, 0.7, 0.5, 0.3),
    "fisher": (0.1, 0.2, 0.3, 0.5),
}
"""Weights of four stages; sparsity has the same in all."""
HOLD, HEAR = 1.5, 1.2
"""What an evaluation multiplies with: the terms that hold, where retention is missed; the task's, where accuracy is."""
MOST = 10.0
"""No term is raised beyond this many times its weight: what ten times does not mend, more does not either."""


class LossWeights:
    """The weights of one run; what was raised stays raised."""

    def __init__(self, config: LossConfig, goals: AudioCurriculumConfig) -> None:
        """Start with nothing raised; `goals` tell retention and accuracy, with or without stages."""
        self.config, self.goals = config, goals
        self._raised = dict.fromkeys(TERMS, 1.0)

    def at(self, stage: int = 0, stages: int = 1) -> dict[str, float]:
        """Return the weight of each of `TERMS` in stage `stage`, from 0, of `stages`."""
        by_stage = stage_weights(stage, stages) if self.config.weights == "stages" else dict.fromkeys(TERMS, 1.0)
        return {name: getattr(self.config, name) * by_stage[name] * self._raised[name] for name in TERMS}

    def judge(self, figures: Mapping[str, float], base_figures: Mapping[str, float]) -> str:
        """Raise what an evaluation asks for, if weights are adaptive; return a line about it, "" if nothing is raised.

        Args:
            figures: of an evaluation, with the gate at 1: `audio_accuracy` and `retention_score`.
            base_figures: the base's on the same questions.
        """
        if self.config.weights != "adaptive":
            return ""
        raised = []
        if retention_missed(self.goals, figures, base_figures) and (names := self._raise(HOLDING, HOLD)):
            raised.append(f"{names} x {HOLD:g}, retention is below its goal")
        if accuracy_missed(self.goals, figures) and (names := self._raise(("task",), HEAR)):
            raised.append(f"{names} x {HEAR:g}, audio accuracy is below its goal")
        return "; ".join(raised)

    def hold_harder(self) -> str:
        """Raise the terms that hold, whatever the weights are, as after a roll-back; return a line about it."""
        names = self._raise(HOLDING, HOLD)
        return f"{names} x {HOLD:g}" if names else ""

    def get_state(self) -> dict[str, Any]:
        """Return what was raised, as JSON."""
        return {"raised": dict(self._raised)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called, with the same configuration."""
        self._raised = {name: float(state["raised"][name]) for name in TERMS}

    def _raise(self, names: tuple[str, ...], factor: float) -> str:
        """Raise the terms that have a weight and are not at their most yet; return their names."""
        found = [name for name in names if getattr(self.config, name) > 0 and self._raised[name] < MOST]
        for name in found:
            self._raised[name] = min(MOST, self._raised[name] * factor)
        return ", ".join(found)


def stage_weights(stage: int, stages: int) -> dict[str, float]:
    """Return the weights of stage `stage`, from 0, of `stages`: `STAGE_TABLE` for four of them.

    Other numbers of stages stand at equal distances in the table, the first at its first row and the last at its last,
    and between two rows on a line; a single stage is the last row.

    >>> stage_weights(1, 4)["feature"], stage_weights(1, 3)["feature"], stage_weights(0, 1)["feature"]
    (0.3, 0.4, 0.7)
    """
    place = 3.0 if stages == 1 else 3 * stage / (stages - 1)
    low = min(int(place), 2)
    rest = place - low
    weights = {
        name: row[low] if rest == 0 else (1 - rest) * row[low] + rest * row[low + 1]
        for name, row in STAGE_TABLE.items()
    }
    return weights | {"sparsity": 1.0}
