from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from agents.averaging import WeightAverage


def _network(value: float) -> nn.Linear:
    """One weight and one bias, both of this value."""
    network = nn.Linear(1, 1)
    return _set(network, value)


def _set(network: nn.Linear, value: float) -> nn.Linear:
    with torch.no_grad():
        network.weight.fill_(value)
        network.bias.fill_(-value)
    return network


def _averages(decay: float, values: Sequence[float], start: float = 0.0) -> list[float]:
    network = _network(start)
    average = WeightAverage(network, decay)
    weights = []
    for value in values:
        average.update(_set(network, value))
        assert average.network.bias.item() == -average.network.weight.item()
        weights.append(average.network.weight.item())
    return weights


def test_the_average_is_as_computed_by_hand() -> None:
    # The weight of the past is 1/11, then 2/12, then 3/13: 11 * 10/11 = 10; 10/6 + 16 * 5/6 = 15; (3 * 15 + 10 * 2)/13.
    assert _averages(0.9, [11.0, 16.0, 2.0]) == pytest.approx([10.0, 15.0, 5.0])


def test_the_weight_of_the_past_stops_at_the_decay() -> None:
    # 1/11, then 0.125 instead of 2/12: 10; 10 / 8 + 18 * 7/8 = 17.
    assert _averages(0.125, [11.0, 18.0]) == pytest.approx([10.0, 17.0])


def test_without_decay_the_average_is_the_last_network() -> None:
    assert _averages(0.0, [3.0, -7.0, 0.5], start=100.0) == [3.0, -7.0, 0.5]


@given(values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30), decay=st.floats(0, 0.999))
def test_the_average_stays_between_the_networks(values: list[float], decay: float) -> None:
    seen = [0.0, *values]
    assert all(min(seen) - 1e-5 <= value <= max(seen) + 1e-5 for value in _averages(decay, values))


def test_the_average_is_a_copy_that_no_optimiser_moves() -> None:
    network = _network(1.0)
    average = WeightAverage(network, 0.9)
    _set(network, 5.0)
    assert average.network.weight.item() == 1.0
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_restored_average_goes_on_as_if_nothing_had_happened() -> None:
    network = _network(0.0)
    whole = WeightAverage(network, 0.9)
    whole.update(_set(network, 11.0))
    restored = WeightAverage(_network(99.0), 0.9)
    restored.load_state_dict({name: tensor.clone() for name, tensor in whole.state_dict().items()})
    for average in (whole, restored):
        average.update(_network(16.0))
    assert restored.network.weight.item() == whole.network.weight.item() == pytest.approx(15.0)
    assert all(isinstance(value, torch.Tensor) for value in restored.state_dict().values())
