"""Whether a model with audio still answers like a model: empty answers, loops, and how sure it is of its words.

In: what base and model said to the same questions, tokens and logits, batch by batch. Out: figures, and warnings where
the model's are far from the base's. An injected representation that overpowers its base shows here first: answers end
at once, repeat themselves, or come from distributions of quite another entropy (arXiv:1904.09751 tells of loops and
flat tails in text that is generated).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REPEATS = 3
"""Equal blocks in a row that make a loop; two are ordinary ("twenty two", "bye bye")."""
NEW_TOKENS = 12
"""Tokens that answers should be given room for, so that a loop of up to four of them can be seen."""
MARGIN, LEAST = 0.05, 3
"""Empty or looping answers beyond the base's that are too many: above this share, and at least so many questions.

One in twenty is beyond what an adapter that hears changes by learning, since no accepted answer is empty or loops; a
few questions more or less are chance where few are evaluated."""
ENTROPY_NATS, ENTROPY_SHARE = 0.5, 0.5
"""Distance from the base's entropy that is too far: above both this many nats and this share of the base's.

Answers of one word, the normal case, have an entropy near 0 where the base is sure, and then a ratio means nothing:
half a nat is what a choice of two words at 80 to 20 % has. Where the base is unsure, half as much again is as far. On
SoundScenes the base has 0.04 nats; an adapter that was not trained gives it 0.04 at a residual scale of 0.05, 0.13 at
0.5, and at 2, where every fifth answer loops, 0.64."""
WARNED = 2
"""Evaluations in a row with a warning that end a run: one may be a bad moment, two are taken for a state."""


@dataclass(frozen=True)
class OutputFigures:
    """How n questions were answered."""

    questions: int
    """n."""
    empty: float
    """Share of answers without a word."""
    looping: float
    """Share of answers that loop, see `loops`."""
    entropy: float | None
    """In nats: the mean over retention questions of the mean over an answer's tokens, the end token's among them; None
    where there is none of these questions. Elsewhere it has to change: who hears is surer than who guesses."""


class OutputCounter:
    """Collects what was said, so that figures are of all batches and not a mean of theirs."""

    def __init__(self, end: Collection[int]) -> None:
        """Make it for a base whose answers end with one of the tokens `end`."""
        self._end = torch.tensor(sorted(end), dtype=torch.int64)
        self.counts: dict[str, float] = dict.fromkeys(("questions", "empty", "looping", "retention", "entropy"), 0)
        """What was counted so far, as JSON; `entropy` is a sum over the retention questions."""

    @torch.no_grad()
    def add(self, answers: Sequence[str], tokens: Tensor, logits: Sequence[Tensor], retention: Tensor) -> None:
        """Count B answers.

        Args:
            answers: as `SafeModel.decode` returns them.
            tokens: int64 (B, n), from `supervised.prompts.answer_tokens`; what follows an end token does not count.
            logits: n tensors (B, V), before any processing.
            retention: bool (B,): the question needs no audio.
        """
        ended = torch.isin(tokens.cpu(), self._end)  # (B, n)
        said = ended.cumsum(-1) == 0  # (B, n): before the end token
        counts = said | (ended & (ended.cumsum(-1) == 1))  # (B, n): up to it
        for row, mask in zip(tokens.tolist(), said.tolist(), strict=True):
            self.counts["looping"] += loops([token for token, inside in zip(row, mask, strict=True) if inside])
        self.counts["questions"] += len(answers)
        self.counts["empty"] += sum(not answer.strip() for answer in answers)
        kept = retention.cpu()
        if bool(kept.any()):
            entropies = torch.stack([token_entropy(step).cpu() for step in logits], -1)  # (B, n)
            means = entropies.where(counts, 0).sum(-1) / counts.sum(-1)  # (B,)
            self.counts["retention"] += int(kept.sum())
            self.counts["entropy"] += float(means[kept].sum())

    def figures(self, others: Sequence[Mapping[str, float]] = ()) -> OutputFigures:
        """Return the figures of all answers so far, and of those that `others`, counts of other processes, hold."""
        each = [self.counts, *others]
        questions, empty, looping, retention, entropy = (
            math.fsum(of_it[name] for of_it in each)
            for name in self.counts  # whatever their order, to the last bit
        )
        total = max(1, questions)
        return OutputFigures(int(questions), empty / total, looping / total, entropy / retention if retention else None)


class OutputMonitor:
    """Compares evaluation after evaluation with the base."""

    def __init__(self) -> None:
        self._warned = 0

    @property
    def stop(self) -> bool:
        """Whether the latest two evaluations had a warning each, so that the run should end."""
        return self._warned >= WARNED

    def check(self, figures: OutputFigures, base: OutputFigures) -> list[str]:
        """Return a line for each figure of an evaluation, with the gate at 1, that is too far from the base's.

        Args:
            figures: of the evaluation.
            base: the base's on the same questions.
        """
        warnings = [line for line in (_empty(figures, base), _looping(figures, base), _entropy(figures, base)) if line]
        self._warned = self._warned + 1 if warnings else 0
        return warnings

    def get_state(self) -> dict[str, Any]:
        """Return what the monitor remembers, as JSON."""
        return {"warned": self._warned}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called."""
        self._warned = int(state["warned"])


def loops(tokens: Sequence[int]) -> bool:
    """Return whether some block of one or more tokens stands three times in a row.

    >>> loops([5, 7, 7, 7]), loops([1, 2, 1, 2, 1, 2, 9]), loops([1, 2, 1, 2, 1]), loops([8, 8])
    (True, True, False, False)
    """
    for size in range(1, len(tokens) // REPEATS + 1):
        equal = 0  # tokens in a row that are those one block before
        for here, before in zip(tokens[size:], tokens, strict=False):
            equal = equal + 1 if here == before else 0
            if equal == size * (REPEATS - 1):
                return True
    return False


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats (B,), float32, of the distributions that logits (B, V) stand for."""
    return torch.special.entr(logits.detach().float().softmax(-1)).sum(-1)


def _empty(figures: OutputFigures, base: OutputFigures) -> str:
    if not _too_many(figures.empty, base.empty, figures.questions):
        return ""
    return (
        f"{figures.empty:.1%} of the answers are empty, of the base's {base.empty:.1%}; "
        "lower stage_a.fusion_lr, or raise stage_a.loss.distill."
    )


def _looping(figures: OutputFigures, base: OutputFigures) -> str:
    if not _too_many(figures.looping, base.looping, figures.questions):
        return ""
    return (
        f"{figures.looping:.1%} of the answers repeat themselves, of the base's {base.looping:.1%}; "
        "lower stage_a.fusion_lr or stage_a.gate_lr, or raise stage_a.loss.distill."
    )


def _entropy(figures: OutputFigures, base: OutputFigures) -> str:
    if figures.entropy is None or base.entropy is None:
        return ""
    far = abs(figures.entropy - base.entropy)
    if far <= max(ENTROPY_NATS, ENTROPY_SHARE * base.entropy):  # NaN is far
        return ""
    return (
        f"on retention questions the answers have a mean entropy of {figures.entropy:.2f} nats, the base's of "
        f"{base.entropy:.2f}; raise stage_a.loss.distill, or lower stage_a.fusion_lr."
    )


def _too_many(share: float, base: float, questions: int) -> bool:
    """Return whether a share is too far above the base's."""
    return share - base > MARGIN and round((share - base) * questions) >= LEAST
