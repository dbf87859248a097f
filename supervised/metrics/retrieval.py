"""How often the right one is among the k most similar: R@k of a retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supervised.errors import DataError


def recall_at_k(similarity: np.ndarray, relevant: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Return the share of queries with a relevant candidate among the k most similar ones.

    Of equally similar candidates the irrelevant ones come first, so that a constant similarity earns nothing.

    >>> recall_at_k(np.array([[0.9, 0.1, 0.5], [0.2, 0.1, 0.3]]), np.eye(2, 3, dtype=bool), ks=(1, 2, 3))
    {1: 0.5, 2: 0.5, 3: 1.0}

    Args:
        similarity: float [Q, N]: of Q queries to N candidates.
        relevant: bool [Q, N]: one or more candidates of each query are right.
        ks: Numbers of candidates that are looked at; one above N looks at all.

    Raises:
        DataError: shapes differ, there is no query, a similarity is NaN, a query has no relevant candidate, or k < 1.
    """
    similarity, relevant = np.asarray(similarity), np.asarray(relevant, dtype=bool)
    if similarity.shape != relevant.shape or similarity.ndim != 2 or not len(similarity):
        raise DataError(
            f"similarity and relevant must be [queries, candidates] both, with a query, got "
            f"{list(similarity.shape)} and {list(relevant.shape)}."
        )
    if np.isnan(similarity).any():
        raise DataError("similarity holds NaN; check the embeddings, a zero vector has no direction.")
    if not relevant.any(axis=1).all():
        query = int(np.flatnonzero(~relevant.any(axis=1))[0])
        raise DataError(f"query {query} has no relevant candidate; give it one or leave it out.")
    if any(k < 1 for k in ks):
        raise DataError(f"k must be at least 1, got {list(ks)}; use e.g. 1, 5, 10.")
    best = np.where(relevant, similarity, -np.inf).max(axis=1)  # (Q,)
    # Every irrelevant candidate that is at least as similar as the best relevant one stands before it.
    ahead = ((similarity >= best[:, None]) & ~relevant).sum(axis=1)  # (Q,)
    return {int(k): float(np.mean(ahead < k)) for k in ks}
