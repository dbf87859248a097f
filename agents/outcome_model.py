"""What an answer is worth on average: rows of a table go in, expected outcomes of questions that look alike come out.

One row is one toss of a coin: base right or wrong, with audio right or wrong. A policy that learns from single tosses
learns their noise. A forest (extremely randomised trees, Geurts et al. 2006) averages over the train rows that its
leaves hold together, and what the policy learns from has the same mean and far less variance. Latencies are known
beforehand and stay as they are; validation, calibration and test rows are always judged by what really happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agents.config import SmoothingConfig
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.normaliser import ObservationNormaliser
from envs.outcomes import TableSplit

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

_ROWS_AT_ONCE = 8192


class OutcomeModel:
    """Expected score of every action, probability of a retention question, and expected costs.

    Args:
        rows: train rows; at most `config.max_rows` of them are drawn to fit the forest.
        config: of the forest.
    """

    def __init__(self, rows: OutcomeBatches, config: SmoothingConfig) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        rng = np.random.default_rng(0)
        chosen = np.arange(len(rows))
        if len(rows) > config.max_rows:
            chosen = np.sort(rng.choice(len(rows), config.max_rows, replace=False))
        targets = np.concatenate([_targets(rows, part) for part in _pieces(chosen)])  # [m, P]
        self._scale = targets.std(axis=0)
        self._mean = targets.mean(axis=0)
        self._varies = np.flatnonzero(self._scale > 0)
        self._forest: ExtraTreesRegressor | None = None
        if len(self._varies):
            observations = np.concatenate([flat(rows, part) for part in _pieces(chosen)])
            scaled = (targets[:, self._varies] - self._mean[self._varies]) / self._scale[self._varies]
            self._forest = ExtraTreesRegressor(
                config.trees,
                min_samples_leaf=max(1, min(config.min_leaf, len(chosen) // 200)),
                max_features="sqrt",
                random_state=0,
                n_jobs=1,
            ).fit(observations, scaled[:, 0] if scaled.shape[1] == 1 else scaled)

    def predict(self, observations: np.ndarray) -> np.ndarray:
        """Return the expected targets, float32 [n, P], for normalised features side by side [n, D]."""
        expected = np.tile(self._mean, (len(observations), 1))
        if self._forest is not None:
            found = self._forest.predict(observations).reshape(len(observations), -1)
            expected[:, self._varies] += found * self._scale[self._varies]
        return expected.astype(np.float32)


class SmoothedBatches(OutcomeBatches):
    """Rows of a split whose scores and costs are those that the model expects; predicted when first asked for.

    Args:
        split: rows to learn from.
        config: alpha and gamma.
        model: fitted on train rows.
        normaliser: that of the rows which the model was fitted on.
        like: the same rows as they happened, whose features are shared; None: they are read.
    """

    def __init__(
        self,
        split: TableSplit,
        config: RewardConfig,
        model: OutcomeModel,
        normaliser: ObservationNormaliser,
        like: OutcomeBatches | None = None,
    ) -> None:
        super().__init__(split, config, normaliser, like=like)
        self.model = model
        actions, sets = len(self.problem.actions), len(self.problem.retention_sets)
        self._expected = np.empty((len(split), actions + 1 + sets * (actions - 1)), dtype=np.float32)
        self._known = np.zeros(len(split), dtype=bool)

    def facts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return score [m, A], probability of a retention question [m], and cost [m, K, A], all expected, float32."""
        missing = np.unique(rows[~self._known[rows]])
        for part in _pieces(missing):
            self._expected[part] = self.model.predict(flat(self, part))
            self._known[part] = True
        found, actions = self._expected[rows], len(self.problem.actions)
        score = found[:, :actions].copy()
        score[:, 1:] += score[:, :1]  # the forest predicts what audio adds
        cost = np.zeros((len(rows), len(self.problem.retention_sets), actions), dtype=np.float32)
        cost[:, :, 1:] = found[:, actions + 1 :].reshape(cost[:, :, 1:].shape)
        return score, found[:, actions], cost


def flat(rows: OutcomeBatches, indices: np.ndarray) -> np.ndarray:
    """Return normalised features side by side, float32 [m, D]."""
    return rows.flat(indices)


def learnable(
    split: TableSplit, config: RewardConfig, smoothing: SmoothingConfig, model: OutcomeModel | None = None
) -> OutcomeBatches:
    """Return the rows that an agent learns from: smoothed, or as they are where `smoothing.trees` is 0.

    Args:
        split: train rows.
        config: alpha and gamma.
        smoothing: of the outcomes.
        model: fitted before on the same rows with the same `smoothing`, to spare the fit; None: fit one.
    """
    if smoothing.trees == 0:
        return OutcomeBatches(split, config)
    split = split.sample(smoothing.max_rows)  # those that the forest is fitted on; to predict others takes too long
    rows = OutcomeBatches(split, config)
    return SmoothedBatches(split, config, model or OutcomeModel(rows, smoothing), rows.normaliser, rows)


def _targets(rows: OutcomeBatches, indices: np.ndarray) -> np.ndarray:
    """Return [m, P]: base score, what each paying action adds, retention or not, cost of each paying action."""
    score, irrelevant, cost = rows.facts(indices)
    parts = [score[:, :1], score[:, 1:] - score[:, :1], irrelevant[:, None], cost[:, :, 1:].reshape(len(indices), -1)]
    return np.concatenate(parts, axis=1)


def _pieces(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[first : first + _ROWS_AT_ONCE] for first in range(0, len(indices), _ROWS_AT_ONCE)]
