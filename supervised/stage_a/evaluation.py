"""How good the adapter is with the gate at 1: accuracy where audio is needed, retention where it is not.

In: validation questions. Out: a dictionary of fractions. The base's own answers do not change, so they are computed
once. Retention questions keep their irrelevant audio: without it there would be nothing to measure. With token budgets
the accuracy is the mean over them, and the retention score that of the worst, as none of them may do harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from supervised.answers import score_sample
from supervised.stage_a.examples import Examples

BATCH = 128
"""Questions that are answered at once."""


class Evaluation:
    """Answers the same questions again and again, greedily."""

    def __init__(self, examples: Examples, budgets: Sequence[int] = ()) -> None:
        """Let the base answer all `examples` without audio; `budgets` are judged each, none: all audio tokens."""
        self.examples, self.budgets = examples, budgets
        # One token more than the longest accepted answer has: whatever is longer is wrong, so its end is not needed.
        accepted = sorted({answer for question in examples.questions for answer in question.answers})
        self.max_new_tokens = max(len(examples.answer_ids(answer)) for answer in accepted)
        self.base_scores = self._scores(hear=False)
        self.base = self._means(self.base_scores)

    def __call__(self) -> dict[str, float]:
        """Return audio_accuracy, retention_score and drop with the gate at 1, and the first two of every budget."""
        if not self.budgets:
            scores = self._means(self._scores(hear=True))
        else:
            each = {budget: self._means(self._scores(hear=True, budget=budget)) for budget in self.budgets}
            scores = {
                "audio_accuracy": sum(part["audio_accuracy"] for part in each.values()) / len(each),
                "retention_score": min(part["retention_score"] for part in each.values()),
            }
            scores |= {f"{name}_{budget}": value for budget, part in each.items() for name, value in part.items()}
        return scores | {"drop": self.base["retention_score"] - scores["retention_score"]}

    @torch.no_grad()
    def _scores(self, hear: bool, budget: int | None = None) -> list[float]:
        """Return the score of every question, answered with or without its audio."""
        model, scores = self.examples.model, []
        for start in range(0, len(self.examples), BATCH):
            rows = range(start, min(start + BATCH, len(self.examples)))
            inputs, audio, images = self.examples.prompt(rows)
            output: Any = model.generate(
                inputs, audio if hear else None, images=images, max_new_tokens=self.max_new_tokens, budget=budget
            )
            predictions = model.decode(output, inputs)
            questions = self.examples.questions[rows.start : rows.stop]
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
