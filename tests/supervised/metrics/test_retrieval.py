from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.errors import DataError
from supervised.metrics.retrieval import recall_at_k

SIMILARITY = np.array([[0.9, 0.8, 0.7], [0.1, 0.3, 0.2], [0.5, 0.6, 0.4]])


def test_a_query_counts_when_its_own_is_among_the_k_most_similar() -> None:
    assert recall_at_k(SIMILARITY, np.eye(3, dtype=bool), (1, 2, 3)) == {1: 2 / 3, 2: 2 / 3, 3: 1.0}


def test_one_of_several_right_ones_is_enough() -> None:
    right = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=bool)
    assert recall_at_k(SIMILARITY, right, (1, 2)) == {1: 0.0, 2: 2 / 3}


def test_a_constant_similarity_earns_nothing_before_everything_is_looked_at() -> None:
    assert recall_at_k(np.zeros((4, 4)), np.eye(4, dtype=bool), (1, 3, 4)) == {1: 0.0, 3: 0.0, 4: 1.0}


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_figure_is_that_of_sorting(queries: int, candidates: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    similarity = generator.permuted(np.tile(np.arange(candidates), (queries, 1)), axis=1).astype(float)
    relevant = generator.random((queries, candidates)) < 0.4
    relevant[np.arange(queries), generator.integers(candidates, size=queries)] = True
    order = np.argsort(-similarity, axis=1)
    for k, recall in recall_at_k(similarity, relevant, range(1, candidates + 1)).items():
        assert recall == np.mean([relevant[row, order[row, :k]].any() for row in range(queries)])


@pytest.mark.parametrize(
    ("similarity", "relevant", "ks", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), (1,), r"got \[2, 3\] and \[3, 2\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), (1,), r"with a query, got \[0, 3\]"),
        (np.full((1, 1), np.nan), np.ones((1, 1)), (1,), "similarity holds NaN; check the embeddings"),
        (np.zeros((2, 2)), np.array([[1, 0], [0, 0]]), (1,), "query 1 has no relevant candidate"),
        (np.zeros((1, 1)), np.ones((1, 1)), (0,), r"k must be at least 1, got \[0\]"),
    ],
)
def test_what_has_no_answer_is_refused(
    similarity: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        recall_at_k(similarity, relevant, ks)
