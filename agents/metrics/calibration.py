"""Whether a gate's number can be read as a probability: numbers and outcomes go in, ECE and Brier scores come out.

Two questions are asked. Is the probability with which a policy uses audio the chance that audio is right? And how well
does its number, whatever its unit, tell the benefit b = P(base wrong, audio right) and the harm h = P(base right, audio
wrong) of a question? For the second the number is turned into b and h by isotonic regression on one half of the groups
and judged on the other half, and the other way round, so that no row judges what it helped to fit.

    Brier   mean (p - y)^2 (Brier 1950)
    ECE     sum over 15 bins of equal width of |sum of (y - p) in the bin| / n (Naeini et al. 2015)
"""

from __future__ import annotations

import numpy as np

from agents.evaluation import RIGHT
from agents.metrics.resamples import Interval, Resamples, interval
from envs.actions import Action
from envs.batch import OutcomeBatches
from supervised.errors import ConfigError

BINS = 15
USE_METRICS = ("use_ece", "use_brier")
OUTCOME_METRICS = ("benefit_ece", "benefit_brier", "harm_ece", "harm_brier")


class Calibration:
    """Judges the numbers of several policies on the same rows with the same resamples.

    Args:
        rows: of one split.
        resamples: of the same rows.
    """

    def __init__(self, rows: OutcomeBatches, resamples: Resamples) -> None:
        self.rows, self.resamples = rows, resamples
        self._totals = resamples.sums(np.ones(len(rows)))  # [B]
        generator = np.random.default_rng(resamples.seed + 2)
        self._half = (generator.permutation(resamples.groups) % 2)[resamples.group].astype(bool)  # [n]

    def of_use(self, chances: np.ndarray, paying: np.ndarray) -> dict[str, Interval]:
        """Judge a probability of use as that of audio being right: the reward of using it is above that of skipping.

        Args:
            chances: in [0, 1], [S, n].
            paying: the action that is taken where audio is used, int64 [S, n] or [n].
        """
        if chances.min() < -1e-6 or chances.max() > 1 + 1e-6:  # beyond rounding
            raise ConfigError(
                f"chances must lie in [0, 1], got {chances.min():g} to {chances.max():g}; give probabilities."
            )
        chances = np.clip(chances, 0, 1)
        reward = self.rows.reward
        right = self._taken(reward, chances, paying) > reward[:, Action.SKIP]  # [S, n]
        return dict(zip(USE_METRICS, self._judge(chances, right), strict=True))

    def of_outcomes(self, scores: np.ndarray, paying: np.ndarray) -> dict[str, Interval]:
        """Judge what a number tells about benefit and harm.

        Args:
            scores: in any unit, [S, n]; only their order counts.
            paying: the action that is taken where audio is used, int64 [S, n] or [n].
        """
        scores = np.atleast_2d(scores)
        base = self.rows.split.score[:, Action.SKIP] > RIGHT  # [n]
        heard = self._taken(self.rows.split.score, scores, paying) > RIGHT  # [S, n]
        result: dict[str, Interval] = {}
        for name, events in (("benefit", ~base & heard), ("harm", base & ~heard)):
            pairs = zip(scores, events, strict=True)
            told = np.stack([cross_fitted(row, event.astype(np.float64), self._half) for row, event in pairs])
            result[f"{name}_ece"], result[f"{name}_brier"] = self._judge(told, events)
        return result

    def _taken(self, values: np.ndarray, like: np.ndarray, paying: np.ndarray) -> np.ndarray:
        """Return the values [S, n] of the paying actions out of [n, A]."""
        paying = np.broadcast_to(np.asarray(paying, dtype=np.int64), np.atleast_2d(like).shape)
        return np.asarray(values[np.arange(len(values)), paying])

    def _judge(self, chances: np.ndarray, events: np.ndarray) -> tuple[Interval, Interval]:
        """Return ECE and Brier score of chances [S, n] for events bool [S, n]."""
        chances = np.atleast_2d(chances).astype(np.float64)
        error = events - chances
        bins = np.minimum((chances * BINS).astype(np.int64), BINS - 1)
        ece, ece_samples = np.zeros(len(chances)), np.zeros((self.resamples.count, len(chances)))
        for number in np.unique(bins):
            inside = error * (bins == number)
            ece += np.abs(inside.sum(axis=1))
            ece_samples += np.abs(self.resamples.sums(inside))
        brier_samples = self.resamples.over_seeds(self.resamples.sums(error**2)) / self._totals
        return (
            interval(ece.mean() / chances.shape[1], self.resamples.over_seeds(ece_samples) / self._totals),
            interval(float((error**2).mean()), brier_samples),
        )


def cross_fitted(scores: np.ndarray, events: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return the probability of the event at every score, isotonic, fitted on the half that a row is not in: [n].

    Args:
        scores: [n]; ties and infinities are welcome.
        events: 0 or 1, [n].
        half: bool [n]. With one half empty (a single group) every row is given the frequency of the event.
    """
    from sklearn.isotonic import IsotonicRegression

    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float64)  # finite
    result = np.full(len(scores), events.mean())
    if half.all() or not half.any():
        return result
    for there in (half, ~half):
        x, y = ranks[there], events[there]
        rising = bool((x - x.mean()) @ (y - y.mean()) >= 0)
        model = IsotonicRegression(increasing=rising, y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y)
        result[~there] = model.predict(ranks[~there])
    return result
