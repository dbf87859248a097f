"""What an answer is worth on average: rows of a table go in, expected outcomes of questions that look alike come out.

One row is one toss of a coin: base right or wrong, with audio right or wrong. A policy that learns from single tosses
learns their noise. Forests (extremely randomised trees, Geurts et al. 2006) average over the train rows that their
leaves hold together, and what the policy learns from has the same mean and far less variance. Latencies are known
beforehand and stay as they are; validation, calibration and test rows are always judged by what really happened.
"""

from __future__ import annotations

import warnings
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

    The rows are dealt into folds, whole groups each, and every fold has a forest of the rows of all other folds. What
    is expected of a row that was fitted on comes from the forest that has not seen it (cross-fitting, Chernozhukov et
    al. 2018, section 3): from its own tosses a policy would learn by heart which of the train rows cost nothing.

    Args:
        rows: train rows to fit on.
        config: of the forests.
    """

    def __init__(self, rows: OutcomeBatches, config: SmoothingConfig) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        everything = np.arange(len(rows))
        targets = np.concatenate([_targets(rows, part) for part in _pieces(everything)])  # [n, P]
        self._scale = targets.std(axis=0)
        self._mean = targets.mean(axis=0)
        self._varies = np.flatnonzero(self._scale > 0)
        self.fold = _folds(rows.split.group, config.folds)
        """Fold of every row that was fitted on, [n]."""
        self._forests: list[ExtraTreesRegressor] = []
        if len(self._varies):
            observations = np.concatenate([rows.flat(part) for part in _pieces(everything)])
            scaled = (targets[:, self._varies] - self._mean[self._varies]) / self._scale[self._varies]
            scaled = scaled[:, 0] if scaled.shape[1] == 1 else scaled
            folds = int(self.fold.max()) + 1
            for fold in range(folds):
                others = self.fold != fold if folds > 1 else np.ones(len(rows), dtype=bool)
                forest = ExtraTreesRegressor(
                    config.trees,
                    min_samples_leaf=max(1, min(config.min_leaf, int(others.sum()) // 200)),
                    max_features=config.max_features,
                    random_state=fold,
                    n_jobs=1,
                )
                self._forests.append(forest.fit(observations[others], scaled[others]))

    def predict(self, observations: np.ndarray, fold: np.ndarray | None = None) -> np.ndarray:
        """Return the expected targets, float32 [n, P], for normalised features side by side [n, D].

        Args:
            observations: of the rows.
            fold: of rows that were fitted on, [n]; None: all forests may be asked, and are averaged.
        """
        expected = np.tile(self._mean, (len(observations), 1))
        for index, forest in enumerate(self._forests):
            asked = np.arange(len(observations)) if fold is None else np.flatnonzero(fold == index)
            if len(asked):
                found = forest.predict(observations[asked]).reshape(len(asked), -1)
                share = 1.0 / len(self._forests) if fold is None else 1.0
                expected[np.ix_(asked, self._varies)] += share * found * self._scale[self._varies]
        return expected.astype(np.float32)


class SmoothedBatches(OutcomeBatches):
    """Rows of a split whose scores and costs are those that the model expects; predicted when first asked for.

    Args:
        split: rows to learn from.
        config: alpha and gamma.
        model: fitted on train rows.
        normaliser: that of the rows which the model was fitted on.
        like: the same rows as they happened, whose features are shared; None: they are read.
        fold: of rows that the model was fitted on, [n]; None: it was not fitted on them.
    """

    def __init__(
        self,
        split: TableSplit,
        config: RewardConfig,
        model: OutcomeModel,
        normaliser: ObservationNormaliser,
        like: OutcomeBatches | None = None,
        fold: np.ndarray | None = None,
    ) -> None:
        super().__init__(split, config, normaliser, like=like)
        self.model, self._fold = model, fold
        actions, sets = len(self.problem.actions), len(self.problem.retention_sets)
        self._expected = np.empty((len(split), actions + 1 + sets * (actions - 1)), dtype=np.float32)
        self._known = np.zeros(len(split), dtype=bool)

    def facts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return score [m, A], probability of a retention question [m], and cost [m, K, A], all expected, float32."""
        missing = np.unique(rows[~self._known[rows]])
        for part in _pieces(missing):
            fold = None if self._fold is None else self._fold[part]
            self._expected[part] = self.model.predict(self.flat(part), fold)
            self._known[part] = True
        found, actions = self._expected[rows], len(self.problem.actions)
        score = found[:, :actions].copy()
        score[:, 1:] += score[:, :1]  # the forest predicts what audio adds
        cost = np.zeros((len(rows), len(self.problem.retention_sets), actions), dtype=np.float32)
        cost[:, :, 1:] = found[:, actions + 1 :].reshape(cost[:, :, 1:].shape)
        return score, found[:, actions], cost


def learnable(
    split: TableSplit, config: RewardConfig, smoothing: SmoothingConfig, model: OutcomeModel | None = None
) -> OutcomeBatches:
    """Return the rows that an agent learns from: smoothed, or as they are where `smoothing.trees` is 0.

    Args:
        split: train rows.
        config: alpha and gamma.
        smoothing: of the outcomes.
        model: fitted before with the same `smoothing` on the same rows, `split.sample(smoothing.max_rows)`, to spare
            the fit; None: fit one.
    """
    if smoothing.trees == 0:
        return OutcomeBatches(split, config)
    split = split.sample(smoothing.max_rows)  # those that the forest is fitted on; to predict others takes too long
    rows = OutcomeBatches(split, config)
    model = model or OutcomeModel(rows, smoothing)
    return SmoothedBatches(split, config, model, rows.normaliser, rows, model.fold)


def _targets(rows: OutcomeBatches, indices: np.ndarray) -> np.ndarray:
    """Return [m, P]: base score, what each paying action adds, retention or not, cost of each paying action."""
    score, irrelevant, cost = rows.facts(indices)
    parts = [score[:, :1], score[:, 1:] - score[:, :1], irrelevant[:, None], cost[:, :, 1:].reshape(len(indices), -1)]
    return np.concatenate(parts, axis=1)


def _folds(group: np.ndarray, folds: int) -> np.ndarray:
    """Deal groups [n] into `folds` folds, or as many as there are groups; return the fold of every row, [n]."""
    _, index = np.unique(group, return_inverse=True)
    count = int(index.max()) + 1
    if count == 1 and len(group) > 1:
        warnings.warn(
            f"All {len(group)} train rows belong to one group, so their expected outcomes come from a forest that has "
            f"seen them, and the measured drop is too hopeful; give independent questions groups of their own, or set "
            f"smoothing.trees 0.",
            stacklevel=4,
        )
    return np.asarray(np.random.default_rng(0).permutation(count)[index] % min(folds, count))


def _pieces(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[first : first + _ROWS_AT_ONCE] for first in range(0, len(indices), _ROWS_AT_ONCE)]
