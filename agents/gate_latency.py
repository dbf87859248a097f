"""How long decisions take: a decider and raw features of questions go in, microseconds come out.

One process, one thread (BLAS threads are the caller's matter), medians of many calls after some to warm up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from agents.gate_policy import GatePolicy

BATCH = 1024


def decision_latency(policy: GatePolicy, rows: np.ndarray, calls: int = 500) -> dict[str, float]:
    """Return the microseconds of one decision, and of one among 1,024 at once: their probabilities of use.

    Args:
        policy: that decides.
        rows: raw features side by side, float32 [n, D]; they are repeated if there are fewer than 1,024.
        calls: timed calls with one row; a twentieth of them with 1,024.
    """
    batch = np.resize(rows, (BATCH, rows.shape[1]))
    each = iter(np.resize(rows, (calls + calls // 10 + 1, rows.shape[1])))
    return {
        "one_row_us": microseconds(lambda: policy.use_probability(next(each)), calls),
        "row_us_1024": microseconds(lambda: policy.use_probability(batch), max(calls // 20, 5)) / BATCH,
    }


def microseconds(work: Callable[[], object], calls: int) -> float:
    """Return the median time of a call, after a tenth as many that do not count."""
    for _ in range(calls // 10 + 1):
        work()
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken)
