"""Reward and cost of whole tables, and of single decisions: the formulas of the environment, once.

    reward = score[a] - alpha * (latency[a] - latency[SKIP]) / latency_unit - gamma * [a != SKIP and retention]
             - token_weight * (tokens[a] - tokens[SKIP]) / token_unit
    cost_k = (score[SKIP] - score[a]) * [retention_set == k] / P(retention_set == k)

so that the mean of cost_k over a split is exactly the drop on retention set k. All arithmetic is float32, so that a
matrix of a table and a single decision agree to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.actions import Action
from envs.config import RewardConfig
from envs.table_writer import LATENCY_UNITS_PER_CALL
from supervised.errors import ConfigError


class RewardTerms:
    """The terms of the reward, computed once, so that a new alpha costs one multiplication.

    Args:
        score: Task score of every action, [n, A].
        latency_ms: Latency of every action, [n, A].
        retention_set: Index of the retention set or -1, [n].
        latency_unit_ms: Extra latency that costs alpha points.
        config: The weights; its alpha is only the default of `matrix`.
        action_tokens: Audio tokens of every action, [A]; needed for `token_weight` > 0.

    Raises:
        ConfigError: `token_weight` is given, but the table does not tell the tokens.
    """

    def __init__(
        self,
        score: np.ndarray,
        latency_ms: np.ndarray,
        retention_set: np.ndarray,
        latency_unit_ms: float,
        config: RewardConfig,
        action_tokens: Sequence[int] | None = None,
    ) -> None:
        score = np.asarray(score, dtype=np.float32)
        latency = np.asarray(latency_ms, dtype=np.float32)
        used = np.arange(score.shape[1]) != Action.SKIP
        irrelevant = (np.asarray(retention_set) >= 0)[:, None] & used
        self.alpha = config.alpha
        self.extra_latency = (latency - latency[:, :1]) / np.float32(latency_unit_ms)  # [n, A], in latency units
        self.free = score - np.float32(config.gamma) * irrelevant - token_cost(config, action_tokens, len(used))

    def matrix(self, alpha: float | None = None) -> np.ndarray:
        """Return the reward of every action, float32 [n, A]."""
        weight = np.float32(self.alpha if alpha is None else alpha)
        return np.asarray(self.free - weight * self.extra_latency, dtype=np.float32)


def cost_matrix(score: np.ndarray, retention_set: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return the cost of every action on every retention set, float32 [n, K, A].

    Args:
        score: Task score of every action, [n, A].
        retention_set: Index of the retention set or -1, [n].
        rates: P(retention_set == k) of the split, [K]; see `retention_rates`.
    """
    score = np.asarray(score, dtype=np.float32)
    member = np.asarray(retention_set)[:, None] == np.arange(len(rates))  # [n, K]
    # A set without a row in the split has rate 0 and no member: its cost is 0, not 0 / 0.
    weight = member / np.where(rates > 0, rates, 1.0).astype(np.float32)
    loss = score[:, :1] - score  # [n, A]
    return np.asarray(weight[:, :, None] * loss[:, None, :], dtype=np.float32)


def retention_rates(retention_set: np.ndarray, sets: int) -> np.ndarray:
    """Return P(retention_set == k) for k in 0 .. sets - 1, float64 [K]."""
    members = np.asarray(retention_set, dtype=np.int64)
    return np.bincount(members[members >= 0], minlength=sets) / max(len(members), 1)


def token_cost(config: RewardConfig, action_tokens: Sequence[int] | None, actions: int) -> np.ndarray:
    """Return what the audio tokens of every action cost, float32 [A]; the unit is four mean audio calls.

    Raises:
        ConfigError: `token_weight` is given, but the tokens are not known.
    """
    if config.token_weight == 0:
        return np.zeros(actions, dtype=np.float32)
    if action_tokens is None:
        raise ConfigError(
            f"reward.token_weight is {config.token_weight}, but the table has no action_tokens; use 0, or build the "
            "table again."
        )
    tokens = np.asarray(action_tokens, dtype=np.float64)
    extra = tokens - tokens[Action.SKIP]
    unit = LATENCY_UNITS_PER_CALL * max(float(extra[1:].mean()), 1.0)
    return np.asarray(config.token_weight * extra / unit, dtype=np.float32)
