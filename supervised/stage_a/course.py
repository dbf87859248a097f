"""What an evaluation means for the rest of a run: a best step, a roll-back, other weights, the next stage, the end.

In: the losses of steps, and what evaluations found of model and base. Out: decisions, and the weights of the loss.
Nothing here touches the model. All that is remembered is JSON, and what takes it over goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from supervised.stage_a.config import StageAConfig
from supervised.stage_a.curriculum import Curriculum
from supervised.stage_a.guard import Guard, Verdict
from supervised.stage_a.loss_weights import LossWeights
from supervised.stage_a.stability import OutputFigures, OutputMonitor


@dataclass
class Decision:
    """What is to be done after an evaluation."""

    verdict: Verdict
    """best: keep the trained values; roll_back: to the best ones; worse: nothing; stop: the run ends."""
    restricted: bool = False
    """Another stage begins, which draws other questions."""
    told: list[str] = field(default_factory=list)
    """A line for everything that changes the course of the run."""


class Course:
    """Guard, curriculum, loss weights and output monitor of one run."""

    def __init__(self, config: StageAConfig) -> None:
        self.config = config
        self.guard = Guard(config.guard)
        self.curriculum = Curriculum(config.curriculum, config.steps)
        self.weights = LossWeights(config.loss, config.curriculum)
        self.monitor = OutputMonitor()

    @property
    def reason(self) -> str:
        """Why the run ends before its last step; empty while it goes on."""
        return self.guard.reason

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each term of the loss in the next step."""
        return self.weights.at(self.curriculum.stage, self.curriculum.stages)

    def judge(
        self,
        step: int,
        figures: Mapping[str, float],
        base: Mapping[str, float],
        outputs: OutputFigures,
        base_outputs: OutputFigures,
    ) -> Decision:
        """Take the evaluation after `step` steps in.

        Patience counts within a stage of the curriculum: where it runs out the next stage begins, and in the last one
        the run ends. While the gate of the training is not yet that of the evaluation, patience, breaches, adaptive
        weights and the monitor do not count: what is evaluated was not trained yet.

        Args:
            step: optimiser steps done.
            figures: `audio_accuracy`, `retention_score` and `drop`, with the gate at 1.
            base: the base's on the same questions.
            outputs: how the questions were answered.
            base_outputs: how the base answered them.
        """
        warming = step < self.config.gate_warmup_steps
        decision = Decision(self.guard.judge(figures, step, warming))
        if decision.verdict == "roll_back":
            fallen = f"retention fell by {100 * figures['drop']:.1f} points: back to step {self.guard.best['step']}"
            decision.told.append("; ".join(filter(None, (fallen, self.weights.hold_harder()))))
        if not warming and (raised := self.weights.judge(figures, base)):
            decision.told.append(raised)
        if self.curriculum.judge(figures, base, self.guard.impatience):
            decision.restricted = True
            decision.told.append(self.curriculum.reason)
            self.guard.begin_stage()
        elif self.guard.impatience and not self.guard.reason:
            decision.verdict = "stop"
            self.guard.reason = self.guard.impatience
        if not warming:
            warnings = self.monitor.check(outputs, base_outputs)
            decision.told += warnings
            if self.monitor.stop:
                self.guard.reason = " ".join(warnings)
        return decision

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Return the state of every part by its name, as JSON."""
        return {
            "guard": self.guard.get_state(),
            "curriculum": self.curriculum.get_state(),
            "weights": self.weights.get_state(),
            "monitor": self.monitor.get_state(),
        }

    def set_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on exactly where `get_state` was called, with the same configuration."""
        self.guard.set_state(state["guard"])
        self.curriculum.set_state(state["curriculum"])
        self.weights.set_state(state["weights"])
        self.monitor.set_state(state["monitor"])
