"""Which questions the steps of Stage A are taken on.

In: the prepared questions and the settings. Out: rows, batch by batch, at the share and from the questions that the
curriculum allows. Kinds of question that no term of the loss reads are left out of a batch, not replaced: a run without
distillation hears as many audio questions per step as one with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from supervised.data.facts import Facts
from supervised.data.mixture import MixtureSampler
from supervised.errors import DataError
from supervised.stage_a.config import LossConfig, StageAConfig
from supervised.stage_a.difficulty import difficulty
from supervised.stage_a.examples import Examples


class Rows:
    """Draws the rows of step after step."""

    def __init__(self, examples: Examples, config: StageAConfig) -> None:
        """Begin with all questions that have a clip.

        Raises:
            DataError: there is no question of a kind that the training needs.
            ConfigError: a weight is for no set that there is.
        """
        self.facts = examples.facts
        self.reads = reads(config.loss)
        check(self.facts, config)
        self.audio_share = config.audio_share
        share = config.audio_share if all(self.reads.values()) else float(self.reads["task"])
        self.sampler = MixtureSampler(self.facts, step_size(config), share, config.set_weights, config.seed)

    def draw(self) -> list[int]:
        """Return the rows of the next step, over all processes."""
        return [int(row) for row in self.sampler.draw()]

    def restrict(self, share: float) -> None:
        """Draw the easiest `share` of the questions that need audio, and `share` times as many of them in a batch."""
        if all(self.reads.values()):
            rows = self.sampler.audio_rows
            self.sampler.restrict(share * self.audio_share, rows[difficulty(self.facts, rows) < share])

    def get_state(self) -> dict[str, Any]:
        """Return where the draws stand, as JSON."""
        return self.sampler.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called."""
        self.sampler.set_state(state)


def reads(loss: LossConfig) -> dict[str, bool]:
    """Return whether the loss has a term for questions that need audio (task), and for retention questions."""
    return {"task": loss.task > 0, "retention": loss.distill > 0 or loss.feature > 0}


def step_size(config: StageAConfig) -> int:
    """Return how many questions a step is taken on, over all processes."""
    read = reads(config.loss)
    if all(read.values()):
        return config.batch_size
    share = 1 - config.audio_share if read["retention"] else config.audio_share
    return max(1, round(share * config.batch_size))


def check(facts: Facts, config: StageAConfig) -> None:
    """Refuse questions among which a kind is missing that the loss reads, or that something is measured on.

    Raises:
        DataError: names the kind.
    """
    loss = config.loss
    held = {
        "stage_a.loss.distill": loss.distill,
        "stage_a.loss.feature": loss.feature,
        "stage_a.loss.fisher": loss.fisher,
        "stage_a.guard.null_space": config.guard.null_space,
    }
    asking = [name for name, value in held.items() if value > 0]
    if loss.task > 0 and not bool(np.any(~facts.retention & facts.has_audio)):
        raise DataError("no training question needs audio and has a clip; add some, or set stage_a.loss.task to 0.")
    if asking and not bool(np.any(facts.retention & facts.has_audio)):
        raise DataError(
            "no training question needs no audio (retention_set) and has a clip all the same; "
            f"add some, or set {' and '.join(asking)} to 0."
        )
