"""The score of a predicted answer against the accepted ones, in [0, 1]: the one place that chooses a question's metric.

A sample that names no metric has the one of its form: options make it multiple choice, ten answers have the soft
accuracy of VQAv2, one answer has exact match. `supervised.metrics` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from supervised.errors import DataError
from supervised.metrics.captions import sentence_bleu
from supervised.metrics.exact import choice_match, exact_match, gqa_match, normalise
from supervised.metrics.vqa import ANNOTATORS, vqa_accuracy

if TYPE_CHECKING:
    from supervised.data.sample import Sample

METRICS = ("exact", "gqa", "vqa", "choice", "bleu")
"""exact: equality after normalising; gqa: in lower case; vqa: ten annotators; choice: options; bleu: free answers."""
_FORMS = f"a score takes 1 accepted answer or {ANNOTATORS}, or any number of them with metric 'bleu'"


def score(prediction: str, answers: Sequence[str], metric: str | None = None, choices: Sequence[str] = ()) -> float:
    """Return the score of `prediction`, by the metric that `find_metric` tells.

    >>> score("Two.", ["two"])
    1.0
    >>> score("2", ["two"] * 2 + ["three"] * 8)
    0.6
    >>> score("b", ["dog"], choices=["cat", "dog"])
    1.0

    Raises:
        DataError: the answers and the metric do not fit.
    """
    metric = find_metric(answers, metric, choices)
    if metric == "vqa":
        return vqa_accuracy(prediction, answers)
    if metric == "choice":
        return choice_match(prediction, answers[0], choices)
    if metric == "gqa":
        return gqa_match(prediction, answers[0])
    if metric == "bleu":
        return sentence_bleu(prediction, answers)
    return exact_match(prediction, answers[0])


def score_sample(prediction: str, sample: Sample) -> float:
    """Return the score of `prediction` as the answer to a sample's question.

    Raises:
        DataError: the sample's answers and its metric do not fit.
    """
    return score(prediction, sample.answers, sample.metric, sample.choices)


def find_metric(answers: Sequence[str], metric: str | None = None, choices: Sequence[str] = ()) -> str:
    """Return the metric of a question: the one it names, else the one of its form.

    Raises:
        DataError: the metric is unknown, does not take so many answers, or the answer is not among the options.
    """
    if metric is not None and metric not in METRICS:
        raise DataError(f"metric {metric!r} is unknown; allowed: {', '.join(METRICS)}, or null; correct it.")
    named = metric or ("choice" if choices else "vqa" if len(answers) == ANNOTATORS else "exact")
    wanted = {"vqa": (ANNOTATORS,), "bleu": ()}.get(named, (1,))
    if not answers or (wanted and len(answers) not in wanted):
        allowed = f"metric {metric!r} takes {wanted[0] if wanted else '1 or more'}" if metric else _FORMS
        raise DataError(f"{allowed}, got {len(answers)}; correct the answers.")
    if named == "choice" and normalise(answers[0]) not in [normalise(choice) for choice in choices]:
        raise DataError(
            f"answer {answers[0]!r} is not among the options {list(choices)!r}; multiple choice needs it in 'choices'."
        )
    return named


def target_answer(answers: Sequence[str]) -> str:
    """Return the answer to train on: the most frequent one, the first of equals."""
    return max(answers, key=answers.count)
