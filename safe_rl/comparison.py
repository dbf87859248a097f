"""A policy beside its baselines: test rows and decisions go in, figures with 95 % intervals come out.

All policies are judged on the same questions with the same resamples; the baselines learn from the train rows.
Definitions of metrics and baselines: docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from agents.baselines import Baseline
    from envs.batch import OutcomeBatches
    from envs.config import RewardConfig
    from envs.outcomes import OutcomeTable

METRICS = (
    "accuracy",
    "audio_accuracy",
    "retention_score",
    "drop",
    "harm",
    "usage",
    "latency_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "flops",
    "utility",
    "regret",
)
"""Every policy has these, as an interval or, where the split has no such question, as None."""

Figures = dict[str, dict[str, float] | None]
"""Metric -> {"mean", "low", "high"} in fractions or milliseconds, or None where the questions cannot tell it."""
Comparison = dict[str, Figures]
"""Policy -> its figures."""
Baselines = dict[str, list["Baseline"]]
"""Name -> one baseline for all seeds, or one per seed."""
TRAIN_ROWS = 200_000
"""Train rows that the baselines are fitted on at most: of a larger table, a random sample."""
CONSTANT = ("always", "never")
"""Baselines that do not tell one question from another."""


@dataclass(frozen=True)
class Report:
    """Everything that is said about a learned policy and its baselines."""

    policies: Comparison
    """As they decide themselves."""
    matched_usage: Comparison
    """Every baseline that ranks questions, using audio exactly as often as the learned policy, seed by seed."""
    paired: dict[str, dict[str, Any]]
    """Baseline -> differences between the learned policy and it, on the same questions."""
    paired_matched_usage: dict[str, dict[str, Any]]
    """The same against the baselines at matched usage."""
    zero_router_aiq: float | None
    """Area under the line from never to always: what coin tosses reach."""

    def as_json(self) -> dict[str, Any]:
        """Return the sections of `metrics.json` that tell all this, with what every name in them means."""
        from safe_rl.units import UNITS

        return {**vars(self), "units": UNITS}


class Judge:
    """Judges decisions on one split of a table; what does not depend on alpha is computed once.

    Args:
        table: its train split, or a sample of it, fits the baselines.
        reward: alpha and gamma of utility, and of what the baselines aim at.
        split: where all are judged.
    """

    def __init__(self, table: OutcomeTable, reward: RewardConfig, split: str = "test") -> None:
        from agents.evaluation import Evaluation
        from envs.batch import OutcomeBatches
        from envs.normaliser import ObservationNormaliser

        train = table.split("train").sample(TRAIN_ROWS)
        # Features are read three times at most, so they are not kept in memory.
        self.train = OutcomeBatches(train, reward, ObservationNormaliser.fit(train), keep_bytes=0)
        self.rows = OutcomeBatches(table.split(split), reward, self.train.normaliser, keep_bytes=0)
        self.evaluation = Evaluation(self.rows)

    def set_alpha(self, alpha: float) -> None:
        """Judge by another price of latency from now on."""
        self.train.set_alpha(alpha)
        self.rows.set_alpha(alpha)

    def compare(self, decisions: np.ndarray, learned: str = "ppo_lagrangian") -> Comparison:
        """Return the learned policy and the baselines that take no time, as they decide themselves.

        Args:
            decisions: int64 [S, n], of S seeds.
            learned: key of the learned policy.
        """
        from agents.baselines import decide

        result = {learned: self.figures(decisions)}
        for name, scores in self._scores(_quick(decisions, self.rows)):
            result[name] = self.figures(np.stack([decide(each) for each in scores]))
        return result

    def report(
        self, decisions: np.ndarray, chances: np.ndarray | None = None, learned: str = "ppo_lagrangian"
    ) -> Report:
        """Judge the learned policy and all baselines in every way.

        Args:
            decisions: int64 [S, n], of S seeds.
            chances: probability of using audio [S, n], or of every action [S, n, A]; it ranks the questions. None: what
                needs a ranking is None. Of several paying actions [S, n] knows only the one that was taken; where none
                was, that which the seed takes most often counts.
            learned: key of the learned policy.
        """
        from agents.baselines import decide, decide_as_often, paying
        from agents.metrics.calibration import OUTCOME_METRICS, USE_METRICS, Calibration
        from agents.metrics.pairing import paired
        from agents.metrics.routing import CURVE_METRICS, Routing

        routing = Routing(self.rows, self.evaluation.resamples)
        calibration = Calibration(self.rows, self.evaluation.resamples)
        absent: Figures = dict.fromkeys((*CURVE_METRICS, *USE_METRICS, *OUTCOME_METRICS))

        def ranked(scores: np.ndarray, used: np.ndarray) -> Figures:
            return {**routing.metrics(scores, used), **calibration.of_outcomes(scores, used)}

        policies: Comparison = {learned: self.figures(decisions) | absent}
        if chances is not None:
            ranking, used = _ranking(chances, decisions, self.rows.reward.shape[1])
            policies[learned] |= {**ranked(ranking, used), **calibration.of_use(ranking, used)}
        matched: Comparison = {}
        differences: dict[str, dict[str, Any]] = {}
        matched_differences: dict[str, dict[str, Any]] = {}
        for name, scores in self._scores(_all(decisions, self.rows)):  # [1 or S, n, A - 1]
            actions = np.stack([decide(each) for each in scores])
            policies[name] = self.figures(actions) | absent
            differences[name] = paired(self.evaluation, decisions, actions)
            if name in CONSTANT:
                continue
            policies[name] |= ranked(scores.max(axis=2), np.stack([paying(each) for each in scores]))
            as_often = np.stack(
                [
                    decide_as_often(scores[seed % len(scores)], int((own != 0).sum()), seed)
                    for seed, own in enumerate(decisions)
                ]
            )
            matched[name] = self.figures(as_often)
            matched_differences[name] = paired(self.evaluation, decisions, as_often)
        return Report(policies, matched, differences, matched_differences, routing.zero_router())

    def figures(self, actions: np.ndarray) -> Figures:
        """Return every metric of decisions, int64 [n] or [S, n]; None where the rows cannot tell it."""
        return {**dict.fromkeys(METRICS), **self.evaluation.metrics(actions)}

    def _scores(self, baselines: Baselines) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the scores of every baseline on the rows, [1 or S, n, A - 1], one for all seeds or one per seed."""
        for name, one_or_more in baselines.items():
            yield name, np.stack([baseline.fit(self.train).scores(self.rows) for baseline in one_or_more])


def compare(
    table: OutcomeTable,
    reward: RewardConfig,
    decisions: np.ndarray,
    chances: np.ndarray | None = None,
    learned: str = "ppo_lagrangian",
    split: str = "test",
) -> Report:
    """Judge the learned decisions and all baselines on a split; see `Judge.report`.

    Args:
        table: its train split fits the baselines.
        reward: alpha and gamma of utility, and of what the baselines aim at.
        decisions: int64 [S, n], of S seeds, on the rows of `split`.
        chances: probability of using audio [S, n], or of every action [S, n, A].
        learned: key of the learned policy: ppo_lagrangian or exact_gradient.
        split: where all are judged.
    """
    return Judge(table, reward, split).report(decisions, chances, learned)


def _quick(decisions: np.ndarray, rows: OutcomeBatches) -> Baselines:
    """Return the baselines that take no time; a coin per seed uses every action as often as this very seed does."""
    from agents.baselines import Always, Never, Oracle, Random, TypeMajority
    from agents.threshold_baselines import ConfidenceThreshold

    actions = rows.reward.shape[1]
    return {
        "always": [Always()],
        "never": [Never()],
        "random": [Random.matched(own, actions, seed) for seed, own in enumerate(decisions)],
        "confidence": [ConfidenceThreshold()],
        "type_majority": [TypeMajority()],
        "oracle": [Oracle()],
    }


def _all(decisions: np.ndarray, rows: OutcomeBatches) -> Baselines:
    """Return all baselines that the rows have features for."""
    from agents.baselines import ScoreOracle
    from agents.config import DistillConfig
    from agents.learned_baselines import LogisticRegression, NearestNeighbours, SupervisedMLP
    from agents.threshold_baselines import EntropyThreshold, MarginThreshold, has_confidence

    sure: Baselines = {"entropy": [EntropyThreshold()], "margin": [MarginThreshold()]} if has_confidence(rows) else {}
    return {
        **_quick(decisions, rows),
        **sure,
        "logistic": [LogisticRegression()],
        "knn": [NearestNeighbours()],
        "mlp": [SupervisedMLP((DistillConfig().hidden,))],
        "oracle_score": [ScoreOracle()],
    }


def _ranking(chances: np.ndarray, decisions: np.ndarray, actions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of use [S, n] and the action taken where audio is used, int64 [S, n]."""
    from supervised.errors import ConfigError

    chances = np.asarray(chances, dtype=np.float64)
    if chances.shape not in (decisions.shape, (*decisions.shape, actions)):
        raise ConfigError(
            f"chances must have shape {decisions.shape} or {(*decisions.shape, actions)}, as the decisions have, got "
            f"{chances.shape}; give those of the same rows."
        )
    if chances.ndim == 3:
        return 1.0 - chances[..., 0], chances[..., 1:].argmax(axis=2) + 1
    taken = [np.bincount(own[own > 0], minlength=actions) for own in decisions]  # [A] each
    usual = [int(counts.argmax()) if counts.any() else actions - 1 for counts in taken]
    return chances, np.where(decisions > 0, decisions, np.array(usual)[:, None])
