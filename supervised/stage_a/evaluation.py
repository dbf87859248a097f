"""How good the adapter is with the gate at 1: accuracy where audio is needed, retention where it is not.

In: validation questions. Out: a dictionary of fractions. The base's own answers do not change, so they are computed
once. Retention questions keep their irrelevant audio: without it there would be nothing to measure. With token budgets
the accuracy is the mean over them, and the retention score that of the worst, as none of them may do harm. Every
evaluation also asks whether gate 0 still is the base of the beginning, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from supervised.answers import score_sample
from supervised.base import end_ids, has_encoder
from supervised.diagnostics.recording import bits
from supervised.errors import ModelError
from supervised.processes import Processes
from supervised.prompts import answer_tokens
from supervised.stage_a.examples import Examples
from supervised.stage_a.stability import NEW_TOKENS, OutputCounter, OutputFigures

BATCH = 128
"""Questions that are answered at once."""
CHECKED = 8
"""Questions on which gate 0 is compared with the base."""


class Evaluation:
    """Answers the same questions again and again, greedily."""

    def __init__(
        self, examples: Examples, budgets: Sequence[int] = (), processes: Processes | None = None, frozen: bool = True
    ) -> None:
        """Let the base answer all `examples` without audio.

        Args:
            examples: of one kind or both.
            budgets: judged each; none: all audio tokens.
            processes: that share the questions; None: this one alone.
            frozen: the base stays what it is, which every evaluation checks.
        """
        self.examples, self.budgets = examples, budgets
        self.processes = Processes.current() if processes is None else processes
        # One token more than the longest accepted answer has: whatever is longer is wrong, so its end is not needed.
        accepted = sorted({answer for question in examples.questions for answer in question.answers})
        self.max_new_tokens = max(NEW_TOKENS, *(len(examples.answer_ids(answer)) for answer in accepted))
        self.base_scores, self.base_outputs = self.score_all(hear=False)
        """Scores of the base, and how it answered."""
        self.outputs = self.base_outputs
        """How the latest evaluation's questions were answered."""
        self.base = self._means(self.base_scores)
        self._first = self._logits(audio=False) if frozen else None

    def __call__(self) -> dict[str, float]:
        """Return audio_accuracy and retention_score with the gate at 1, those of every budget, audio_gain and drop.

        Raises:
            ModelError: gate 0 is not the base of the beginning.
        """
        self.check_gate_zero()
        if not self.budgets:
            each_score, self.outputs = self.score_all(hear=True)
            scores = self._means(each_score)
        else:
            each = {}
            for budget in self.budgets:  # the longest is told last, so the outputs are those of all tokens it may hear
                each_score, self.outputs = self.score_all(hear=True, budget=budget)
                each[budget] = self._means(each_score)
            scores = {
                "audio_accuracy": sum(part["audio_accuracy"] for part in each.values()) / len(each),
                "retention_score": min(part["retention_score"] for part in each.values()),
            }
            scores |= {f"{name}_{budget}": value for budget, part in each.items() for name, value in part.items()}
        return scores | {
            "audio_gain": scores["audio_accuracy"] - self.base["audio_accuracy"],
            "drop": self.base["retention_score"] - scores["retention_score"],
        }

    @torch.no_grad()
    def _logits(self, audio: bool) -> Tensor:
        """Return the logits of the first questions' answers: of the plain base, or at gate 0 with audio at hand."""
        batch = self.examples.batch(range(min(CHECKED, len(self.examples))))
        return self.examples.logits(batch, batch.audio if audio else None, 0.0)

    def check_gate_zero(self) -> None:
        """Refuse to go on where gate 0 is not the base any more.

        Raises:
            ModelError: its logits differ in a bit at least.
        """
        if self._first is not None and not torch.equal(bits(self._logits(audio=True)), bits(self._first)):
            raise ModelError(
                "gate 0 no longer gives the base's logits, bit for bit, so something has changed the frozen base; "
                "load it anew and start again."
            )

    def score_all(self, hear: bool, budget: int | None = None) -> tuple[list[float], OutputFigures]:
        """Return the score of every question, answered with or without its audio, and how they were answered."""
        counter = OutputCounter(end_ids(self.examples.model.base))
        mine = self.processes.mine(range(len(self.examples)))
        told = self.processes.gather([self._scores(mine, hear, budget, counter), counter.counts])
        shares = [scores for scores, _ in told]
        scores = [shares[place % len(shares)][place // len(shares)] for place in range(len(self.examples))]
        others = [counts for rank, (_, counts) in enumerate(told) if rank != self.processes.rank]
        return scores, counter.figures(others)

    @torch.no_grad()
    def _scores(self, mine: Sequence[int], hear: bool, budget: int | None, counter: OutputCounter) -> list[float]:
        """Return the scores of the questions at `mine`, and count their answers."""
        model, scores = self.examples.model, []
        apart = has_encoder(model.base)
        # A base that is spread over processes computes when all of them ask it: one without questions left repeats one.
        passes = math.ceil(len(self.examples) / (self.processes.count * BATCH))
        for start in range(0, passes * BATCH, BATCH):
            rows = mine[start : start + BATCH]
            inputs, audio, images = self.examples.prompt(rows or range(1))
            output: Any = model.generate(
                inputs, audio if hear else None, images=images, max_new_tokens=self.max_new_tokens, budget=budget
            )
            if not rows:
                continue
            predictions = model.decode(output, inputs)
            tokens = answer_tokens(output.sequences, inputs, apart)
            counter.add(predictions, tokens, output.logits, self.examples.retention[list(rows)])
            questions = [self.examples.questions[row] for row in rows]
            scores += [score_sample(text, question) for text, question in zip(predictions, questions, strict=True)]
        return scores

    def _means(self, scores: Sequence[float]) -> dict[str, float]:
        """Return the means over questions that need audio and over those that do not; 1 where there is none."""
        kinds = {"audio_accuracy": False, "retention_score": True}
        parts = {
            name: [
                value
                for value, retention in zip(scores, self.examples.retention.tolist(), strict=True)
                if retention == kind
            ]
            for name, kind in kinds.items()
        }
        return {name: sum(part) / len(part) if part else 1.0 for name, part in parts.items()}
