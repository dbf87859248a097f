"""Baselines that learn from the state what audio is worth, by scikit-learn: train rows in, expected gains out.

All are plain supervised learning: with both outcomes in the table no exploration is needed, and none of them knows a
constraint. They learn on a random sample of at most so many rows, so that a table of any size takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from agents.baselines import Baseline, gains, some_rows
from envs.batch import OutcomeBatches

FIT_ROWS = 20_000
"""Train rows that logistic regression and network learn from at most."""
NEIGHBOUR_ROWS = 10_000
"""Train rows among which neighbours are looked for at most: every row is compared with all of them."""
_ROWS_AT_ONCE = 4096


class LogisticRegression(Baseline):
    """Cost-sensitive logistic regression: is audio worth it, where a mistake weighs what it costs, |r_use - r_skip|.

    With these weights the Bayes-optimal answer is the sign of the expected gain (Elkan 2001). Of several paying actions
    each has its own regression against SKIP.

    Args:
        strength: inverse of the L2 penalty (scikit-learn's C).
        cap: train rows to learn from at most.
    """

    def __init__(self, strength: float = 0.1, cap: int = FIT_ROWS) -> None:
        self.strength, self.cap = strength, cap

    def fit(self, rows: OutcomeBatches) -> Self:
        """Fit one regression per paying action; one side only needs none."""
        from sklearn.linear_model import LogisticRegression as Regression

        at = some_rows(len(rows), self.cap)
        states, gain = _states(rows, at), gains(rows)[at]  # [m, D], [m, A - 1]
        self._models: list[Any] = []
        for column in gain.T:
            if (column > 0).all() or (column <= 0).all():
                self._models.append(float(np.sign(column[0]) or -1.0))
                continue
            model = Regression(C=self.strength, max_iter=300)
            with _single_thread_without_warnings():
                self._models.append(model.fit(states, column > 0, sample_weight=np.abs(column)))
        return self

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return the weighted log-odds that the action is worth it."""
        pieces = [
            np.stack(
                [
                    np.full(len(states), model) if isinstance(model, float) else model.decision_function(states)
                    for model in self._models
                ],
                axis=1,
            )
            for states in _pieces(rows)
        ]
        return np.concatenate(pieces).astype(np.float64)


class NearestNeighbours(Baseline):
    """The mean gain of the nearest train rows, by Euclidean distance between normalised states.

    Args:
        neighbours: how many; all rows where there are fewer.
        cap: train rows among which they are looked for at most.
    """

    def __init__(self, neighbours: int = 20, cap: int = NEIGHBOUR_ROWS) -> None:
        self.neighbours, self.cap = neighbours, cap

    def fit(self, rows: OutcomeBatches) -> Self:
        """Remember the rows."""
        from sklearn.neighbors import KNeighborsRegressor

        at = some_rows(len(rows), self.cap)
        model = KNeighborsRegressor(min(self.neighbours, len(at)), algorithm="brute", n_jobs=1)
        self._model = model.fit(_states(rows, at), gains(rows)[at])
        return self

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return the mean gain among the neighbours of every row."""
        with _single_thread_without_warnings():
            predicted = [self._model.predict(states) for states in _pieces(rows)]
        return np.concatenate(predicted).astype(np.float64)


class SupervisedMLP(Baseline):
    """A tanh network of one hidden layer or more that predicts the gains: squared error, early stopping.

    Args:
        hidden: widths of the hidden layers.
        seed: of weights, minibatches and the rows held out for early stopping.
        cap: train rows to learn from at most.
    """

    def __init__(self, hidden: Sequence[int] = (64,), seed: int = 0, cap: int = FIT_ROWS) -> None:
        self.hidden, self.seed, self.cap = tuple(hidden), seed, cap

    def fit(self, rows: OutcomeBatches) -> Self:
        """Train until a tenth of the rows, held out, is predicted no better for ten epochs."""
        from sklearn.neural_network import MLPRegressor

        at = some_rows(len(rows), self.cap)
        states, gain = _states(rows, at), gains(rows)[at]
        model = MLPRegressor(
            hidden_layer_sizes=self.hidden,
            activation="tanh",
            alpha=1.0,  # outcomes are noisy: without a strong penalty the network learns them by heart
            batch_size=max(min(256, len(at) * 4 // 5), 1),  # early stopping holds a tenth out
            learning_rate_init=3e-3,
            max_iter=60,
            early_stopping=len(at) >= 20,  # with fewer rows nothing can be held out
            n_iter_no_change=10,
            random_state=self.seed,
        )
        with _single_thread_without_warnings():
            self._model = model.fit(states, gain[:, 0] if gain.shape[1] == 1 else gain)
        return self

    def scores(self, rows: OutcomeBatches) -> np.ndarray:
        """Return the predicted gains."""
        with _single_thread_without_warnings():
            predicted = [self._model.predict(states).reshape(len(states), -1) for states in _pieces(rows)]
        return np.concatenate(predicted).astype(np.float64)


def _states(rows: OutcomeBatches, at: np.ndarray) -> np.ndarray:
    """Return the normalised features of some rows side by side, float32 [m, D]."""
    return np.concatenate(list(rows.observe(at).values()), axis=1)


def _pieces(rows: OutcomeBatches) -> Iterator[np.ndarray]:
    """Yield the normalised states of all rows, float32 [<= 4096, D] at a time: temporaries stay small."""
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        yield _states(rows, np.arange(first, min(first + _ROWS_AT_ONCE, len(rows))))


@contextmanager
def _single_thread_without_warnings() -> Iterator[None]:
    """Keep results and time independent of the number of cores; a fit that uses up its iterations is good enough."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
