from __future__ import annotations

import time

import numpy as np
import pytest

from agents.gate_latency import decision_latency, microseconds
from agents.gate_policy import GatePolicy
from envs.normaliser import ObservationNormaliser


def test_the_median_of_calls_is_told_in_microseconds() -> None:
    calls: list[None] = []

    def work() -> None:
        calls.append(None)
        time.sleep(0.05 if len(calls) == 8 else 0.002)  # one slow call moves a mean, not a median

    assert 2_000 <= microseconds(work, 11) < 40_000
    assert len(calls) == 2 + 11


@pytest.mark.parametrize("rows", [3, 2000])
def test_a_decision_among_many_takes_less_than_one_alone(rows: int) -> None:
    normaliser = ObservationNormaliser({"question": np.zeros(300)}, {"question": np.ones(300)})
    layers = [(np.ones((128, 300)), np.zeros(128)), (np.ones((2, 128)), np.zeros(2))]
    policy = GatePolicy(normaliser, layers, ("skip", "use"))
    taken = decision_latency(policy, np.zeros((rows, 300), np.float32), calls=40)
    assert 0 < taken["row_us_1024"] < taken["one_row_us"] < 5_000
