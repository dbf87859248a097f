"""The audio curriculum: from few and easy questions that need audio to all of them, stage by stage.

In: the loss of every step, and the figures of every evaluation. Out: the stage and its share, which is both the share
of the easiest audio questions that may be drawn and the factor on `audio_share`. A stage ends when its goals are met or
when its time is up. Everything it remembers is JSON, and what takes it over goes on bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from supervised.stage_a.config import AudioCurriculumConfig

WINDOWS = 5
"""Latest whole windows of losses that a stage is judged by; with fewer of them it is not judged steady."""
WINDOWS_PER_STAGE = 10
"""Windows in an equal share of the run's steps: a stage can be left after half of its time at the earliest."""


class Curriculum:
    """The stages of one run.

    A stage is left at an evaluation

    - when retention_score >= retention * the base's, audio_accuracy >= accuracy, and the loss varies by no more than
      loss_variation; accuracy is that of all validation questions, also of those that are harder than the stage's;
    - or when nothing more is to be expected of it (`impatience`);
    - or else when its time is up: stage k of n ends at k / n of the run's steps at the latest, so that the last one,
      with all questions, always has its share of them. A stage that is left early leaves its time to the next one.

    Variation is the standard deviation (that of a population) of the mean losses of the latest five whole windows,
    divided by their mean. A window is a tenth of a stage's equal share of the steps; windows begin anew with a stage.
    """

    def __init__(self, config: AudioCurriculumConfig, steps: int) -> None:
        """Start with the first stage of a run of `steps` steps; without shares there is one, with everything."""
        self.config, self.steps = config, steps
        self._shares = config.shares or (1.0,)
        self._window = max(1, steps // (WINDOWS_PER_STAGE * len(self._shares)))
        self.stage = 0
        """From 0."""
        self.reason = ""
        """Why the stage was left when `judge` last was asked, in one line; "" if it was not."""
        self._taken = 0
        self._sums: list[float] = []  # of the latest whole windows of this stage
        self._sum, self._count = 0.0, 0  # of the window that is under way

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self._shares)

    @property
    def share(self) -> float:
        """Share of the easiest audio questions that may be drawn, and factor on `audio_share`."""
        return self._shares[self.stage]

    @property
    def variation(self) -> float | None:
        """How much the loss varies, as a share of its mean; None where there are too few windows yet."""
        if len(self._sums) < WINDOWS:
            return None
        means = [total / self._window for total in self._sums]
        mean = math.fsum(means) / WINDOWS
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / WINDOWS)
        return deviation / mean if mean > 0 else (0.0 if deviation == 0 else math.inf)

    def observe_loss(self, value: float) -> None:
        """Take note of the loss of a step."""
        self._taken += 1
        self._sum += value
        self._count += 1
        if self._count == self._window:
            self._sums = [*self._sums, self._sum][-WINDOWS:]
            self._sum, self._count = 0.0, 0

    def judge(self, figures: Mapping[str, float], base_figures: Mapping[str, float], impatience: str = "") -> bool:
        """Go on to the next stage if it is time; return whether it was, and tell why in `reason`.

        Args:
            figures: of an evaluation, with the gate at 1: `audio_accuracy` and `retention_score`.
            base_figures: the base's on the same questions.
            impatience: why nothing more is to be expected of the stage; empty while there is.
        """
        self.reason = ""
        if self.stage == self.stages - 1:
            return False
        missed = missed_goals(self.config, figures, base_figures)
        variation = self.variation
        if variation is None:
            missed.append("too few steps to tell how much the loss varies")
        elif variation > self.config.loss_variation:
            missed.append(f"loss variation {variation:.3f} > {self.config.loss_variation:g}")
        time_is_up = self._taken * self.stages >= (self.stage + 1) * self.steps
        if missed and not time_is_up and not impatience:
            return False
        early = "its time is up" if time_is_up else impatience
        why = f"{early} ({'; '.join(missed)})" if missed else "its goals are met"
        self.reason = f"stage {self.stage + 1} of {self.stages} ends: {why}"
        self.stage += 1
        self._sums, self._sum, self._count = [], 0.0, 0
        return True

    def get_state(self) -> dict[str, Any]:
        """Return where the curriculum stands, as JSON."""
        return {
            "stage": self.stage,
            "taken": self._taken,
            "windows": list(self._sums),
            "window": {"sum": self._sum, "count": self._count},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called, with the same configuration and number of steps."""
        self.stage, self._taken = int(state["stage"]), int(state["taken"])
        self._sums = [float(total) for total in state["windows"]]
        self._sum, self._count = float(state["window"]["sum"]), int(state["window"]["count"])
        self.reason = ""


def missed_goals(
    config: AudioCurriculumConfig, figures: Mapping[str, float], base_figures: Mapping[str, float]
) -> list[str]:
    """Return which of the goals of an evaluation are missed, in words; retention first."""
    missed = []
    if retention_missed(config, figures, base_figures):
        goal = config.retention * base_figures["retention_score"]
        missed.append(f"retention score {figures['retention_score']:.3f} < {goal:.3f}")
    if accuracy_missed(config, figures):
        missed.append(f"audio accuracy {figures['audio_accuracy']:.3f} < {config.accuracy:g}")
    return missed


def retention_missed(
    config: AudioCurriculumConfig, figures: Mapping[str, float], base_figures: Mapping[str, float]
) -> bool:
    """Return whether the retention score is below its goal, a share of the base's."""
    return figures["retention_score"] < config.retention * base_figures["retention_score"]


def accuracy_missed(config: AudioCurriculumConfig, figures: Mapping[str, float]) -> bool:
    """Return whether the score on questions that need audio is below its goal."""
    return figures["audio_accuracy"] < config.accuracy
