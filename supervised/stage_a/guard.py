"""What an evaluation means for the run: a new best step, one more in vain, a breach of retention, or the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from supervised.stage_a.config import GuardConfig

Verdict = Literal["best", "worse", "roll_back", "stop"]


class Guard:
    """Keeps the figures of the best step, counts evaluations in vain and breaches, and says when the run ends."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.best: dict[str, float] = {}
        """Figures of the best evaluation and its `step`; empty before the first."""
        self.stale = 0
        """Evaluations without a better one, since the best one or since the curriculum's stage began."""
        self.rolled = 0
        """Roll-backs so far."""
        self.reason = ""
        """Why the run ended before its last step; empty while it goes on."""

    def judge(self, figures: Mapping[str, float], step: int, warming: bool) -> Verdict:
        """Take an evaluation in.

        Args:
            figures: of the evaluation; `audio_accuracy` and `drop` count.
            step: optimiser steps done.
            warming: the gate of the training is not yet that of the evaluation, so patience does not count.
        """
        better = not self.best or self._rank(figures) > self._rank(self.best)
        if better:
            self.best = {**figures, "step": step}
        self.stale = 0 if better or warming else self.stale + 1
        if figures["drop"] > self.config.breach and self.config.on_breach != "go_on" and not warming:
            return self._breach(figures["drop"], better)
        return "best" if better else "worse"

    @property
    def impatience(self) -> str:
        """Why there is nothing more to expect of the present stage; empty while patience lasts."""
        return f"{self.stale} evaluations without a better one" if self.stale >= self.config.patience else ""

    def begin_stage(self) -> None:
        """Count anew: questions that were not drawn before can make the model better again."""
        self.stale = 0

    def get_state(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return {"best": self.best, "stale": self.stale, "rolled": self.rolled, "reason": self.reason}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called."""
        self.best, self.stale = dict(state["best"]), int(state["stale"])
        self.rolled, self.reason = int(state["rolled"]), str(state["reason"])

    def _breach(self, drop: float, better: bool) -> Verdict:
        """Return what a breach leads to; a step that is the best so far has nothing to roll back to."""
        if self.config.on_breach == "roll_back" and not better and self.rolled < self.config.roll_backs:
            self.rolled += 1
            self.stale = 0
            return "roll_back"
        if self.config.on_breach == "roll_back" and better:
            return "best"
        self.reason = f"retention fell by {100 * drop:.1f} points, above stage_a.guard.breach"
        return "stop"

    def _rank(self, figures: Mapping[str, float]) -> tuple[bool, float, float]:
        """Return the key that is larger for the better evaluation: within the drop, hearing counts; else the drop."""
        accuracy, drop = figures["audio_accuracy"], figures["drop"]
        within = drop <= self.config.max_drop
        return (within, accuracy, -drop) if within else (within, -drop, accuracy)
