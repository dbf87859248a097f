"""A policy beside its baselines: test rows and decisions go in, figures with 95 % intervals come out.

All policies are judged on the same questions with the same resamples; the baselines learn from the train rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from envs.config import RewardConfig
    from envs.outcomes import OutcomeTable

METRICS = ("accuracy", "audio_accuracy", "retention_score", "drop", "usage", "latency_ms", "utility")
"""Every policy has these, as an interval or, where the split has no such question, as None."""

Comparison = dict[str, dict[str, dict[str, float] | None]]
"""Policy -> metric -> {"mean", "low", "high"}; fractions, and milliseconds for latency."""


def compare(table: OutcomeTable, reward: RewardConfig, decisions: np.ndarray, split: str = "test") -> Comparison:
    """Judge the learned decisions and the baselines on a split.

    Args:
        table: its train split fits the baselines.
        reward: alpha and gamma of utility, and of what the baselines aim at.
        decisions: int64 [S, n], of S seeds, on the rows of `split`.
        split: where all are judged.
    """
    from agents.baselines import Always, ConfidenceThreshold, Never, Oracle, Random, TypeMajority
    from agents.evaluation import evaluate
    from envs.batch import OutcomeBatches

    train = OutcomeBatches(table.split("train"), reward)
    rows = OutcomeBatches(table.split(split), reward, train.normaliser)
    coins = [
        Random.matched(actions, len(table.actions), seed).decide(rows)  # as often as this very seed uses audio
        for seed, actions in enumerate(decisions)
    ]
    policies = {
        "ppo_lagrangian": decisions,
        "always": Always().decide(rows),
        "never": Never().decide(rows),
        "random": np.stack(coins),
        "confidence": ConfidenceThreshold().fit(train).decide(rows),
        "type_majority": TypeMajority().fit(train).decide(rows),
        "oracle": Oracle().decide(rows),
    }
    judged = evaluate(policies, rows)
    return {name: {metric: None for metric in METRICS} | figures for name, figures in judged.items()}
