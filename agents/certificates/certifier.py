"""From a table and the folder of a policy to its certificate.

The calibration rows are read once and serve any number of policies; the validation rows lay the grid of thresholds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.certificates.certificate import Certificate, policy_sha256
from agents.certificates.certified_threshold import CalibrationRows, choose_threshold, threshold_grid
from agents.config import CertifyConfig
from agents.gate_policy import GatePolicy, load_policy, provenance_of
from envs.actions import Action
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable, TableSplit
from envs.reward import RewardTerms
from supervised.errors import CheckpointError, TableError

SPLIT = "calibration"
_ROWS_AT_ONCE = 8192  # their features are in memory at once


class Certifier:
    """Certifies policies on the calibration rows of a table.

    Args:
        table: whose calibration rows no policy has seen.
        config: what is promised.
        limits: one per retention set of the table.
        reward: alpha and gamma of the utility that chooses among certified thresholds.

    Raises:
        TableError: there is no calibration row, or none of a retention set.
    """

    def __init__(self, table: OutcomeTable, config: CertifyConfig, limits: list[float], reward: RewardConfig) -> None:
        self.table, self.config, self.reward = table, config, reward
        self.limits = dict(zip(table.retention_sets, limits, strict=True))
        _refuse_unmeasured(table)
        self.rows = table.split(SPLIT)
        _refuse_silent(table, self.rows)
        self._terms = RewardTerms(
            self.rows.score,
            self.rows.latency_ms,
            self.rows.retention_set,
            table.latency_unit_ms,
            reward,
            table.action_tokens,
        )
        self._carries_audio = carries_audio(self.rows)  # [n]

    def certify(self, directory: Path | str) -> Certificate:
        """Return the certificate of the policy in `directory`; nothing is written.

        Raises:
            CheckpointError: the policy is missing or damaged, or learned from another table.
        """
        return self.certify_all([Path(directory)])[Path(directory)]

    def certify_all(
        self, directories: Sequence[Path], alphas: Sequence[float] | None = None
    ) -> dict[Path, Certificate]:
        """Return the certificates of many policies, by their folders; nothing is written.

        Args:
            directories: of the policies.
            alphas: one per policy, in the utility that chooses among certified thresholds; None: that of the reward.

        Raises:
            CheckpointError: a policy is missing or damaged, or learned from another table.
        """
        policies = [self._load(directory) for directory in directories]
        calibration, validation = (
            probabilities_of(policies, rows) for rows in (self.rows, self.table.split("validation"))
        )  # S x [n, A] each
        prices = [self.reward.alpha] * len(policies) if alphas is None else alphas
        made = map(self._certificate, directories, prices, calibration, validation)
        return dict(zip(directories, made, strict=True))

    def _load(self, directory: Path) -> GatePolicy:
        """Return the policy in `directory`, if it is one of this table."""
        policy = load_policy(directory)
        if policy.actions != self.table.actions:
            raise CheckpointError(
                f"The policy at {directory} decides between {', '.join(policy.actions)}, the table in "
                f"{self.table.directory} between {', '.join(self.table.actions)}; give the table of the run."
            )
        if provenance_of(directory).get("table_sha256", self.table.fingerprint) != self.table.fingerprint:
            raise CheckpointError(
                f"The policy at {directory} learned from another table than {self.table.directory}, whose calibration "
                f"rows it may have seen; give the table of the run with --table."
            )
        return policy

    def _certificate(
        self, directory: Path, alpha: float, calibration: np.ndarray, validation: np.ndarray
    ) -> Certificate:
        """Return the certificate of a policy by the probability of every action [n, A] on both splits."""
        rows = CalibrationRows(
            use_probability=1.0 - calibration[:, Action.SKIP],
            use_action=1 + calibration[:, 1:].argmax(axis=1),
            score=self.rows.score,
            retention_set=self.rows.retention_set,
            group=self.rows.group,
            reward=self._terms.matrix(alpha),
            carries_audio=self._carries_audio,
        )
        grid = threshold_grid(1.0 - validation[:, Action.SKIP], self.config.grid)
        choice = choose_threshold(rows, self.limits, self.config, grid)
        drawn = np.concatenate([self.rows.rows[questions] for questions in choice.drawn]).astype("<i8")
        return Certificate(
            method=self.config.method,
            delta=self.config.delta,
            threshold=choice.threshold,
            sets=choice.sets,
            actions=self.table.actions,
            usage=choice.usage,
            utility=choice.utility,
            utility_never=choice.utility_never,
            wanted=choice.wanted,
            alpha=alpha,
            gamma=self.reward.gamma,
            thresholds_passed=choice.passed,
            thresholds_tried=choice.tried,
            split=SPLIT,
            rows=len(self.rows),
            seed=self.config.seed,
            drawn_sha256=hashlib.sha256(drawn.tobytes()).hexdigest(),
            table_sha256=self.table.fingerprint,
            policy_sha256=policy_sha256(directory),
            gate_zero=gate_zero(self.table),
        )


def probabilities_of(policies: Sequence[GatePolicy], rows: TableSplit) -> list[np.ndarray]:
    """Return the probability of every action by each policy, float32 [n, A]; every row is read once, some at a time."""
    found: list[list[np.ndarray]] = [[] for _ in policies]
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        features = rows.observation(slice(first, first + _ROWS_AT_ONCE))
        for policy, pieces in zip(policies, found, strict=True):
            pieces.append(policy.probabilities(features))
    return [np.concatenate(pieces) for pieces in found]


def carries_audio(rows: TableSplit) -> np.ndarray:
    """Return which rows carry audio, bool [n].

    Without audio every action is the bypass: as long as SKIP and with its score. A row with audio that looks like that
    by chance was not harmed, so taking it for one without makes the tests stricter. Where no row takes longer, the
    table does not tell, and all rows count.
    """
    longer, other = (np.any(values != values[:, :1], axis=1) for values in (rows.latency_ms, rows.score))
    return longer | other if longer.any() else np.ones(len(longer), dtype=bool)


def gate_zero(table: OutcomeTable) -> dict[str, Any]:
    """Return what the builder of a table checked about questions without audio; None where it does not tell."""
    model = table.provenance.get("model")
    return {
        "bit_exact": table.provenance.get("gate_zero_bit_exact"),
        "samples": table.provenance.get("gate_zero_samples"),
        "base_sha256": model.get("base") if isinstance(model, dict) else None,
    }


def _refuse_unmeasured(table: OutcomeTable) -> None:
    for name, purpose in {SPLIT: "to certify on", "validation": "to lay the grid of thresholds"}.items():
        if not table.splits[name]:
            there = ", ".join(f"{split} {count}" for split, count in table.splits.items())
            raise TableError(
                f"The table in {table.directory} has no {name} rows, which are needed {purpose} (rows: {there}); "
                f"give some rows the split {name}."
            )


def _refuse_silent(table: OutcomeTable, rows: TableSplit) -> None:
    carrying = rows.retention_set[carries_audio(rows)]
    if not np.any(carrying >= 0):
        raise TableError(
            f"The table in {table.directory} has no retention questions with audio among its {len(rows)} calibration "
            f"rows, so there is nothing to certify; give some rows a retention set."
        )
    missing = [name for k, name in enumerate(table.retention_sets) if not np.any(carrying == k)]
    if missing:
        raise TableError(
            f"The table in {table.directory} has no calibration row with audio of {', '.join(missing)}, so nothing can "
            f"be certified about it; give some of its rows the split calibration."
        )
