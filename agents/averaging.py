"""The average of a policy's weights over training: single iterates go in, a steadier policy comes out.

The last iterate of a stochastic method carries the noise of its last steps; the average of many does not (Polyak and
Juditsky 1992). What is judged, and what ships, is the average.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch as th
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """An exponential moving average of a network's weights.

    Args:
        network: whose weights are averaged; it is copied.
        decay: weight of the past; less at first, so that the beginning is soon forgotten. 0: the last weights.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.count = decay, 0

    def update(self, network: Network) -> None:
        """Take in the weights of `network` as they are now."""
        self.count += 1
        decay = min(self.decay, self.count / (10 + self.count)) if self.decay else 0.0
        with th.no_grad():
            th._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return average and count as tensors."""
        return {**self.network.state_dict(), "average.count": th.tensor(self.count)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        weights = dict(state)
        self.count = int(weights.pop("average.count"))
        self.network.load_state_dict(weights)
