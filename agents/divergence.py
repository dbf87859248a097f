"""Training that leaves the finite numbers: figures and layers go in, one line that says what to lower comes out.

Settings of a user lead there, a learning rate above all; so it is told as what it is, and no such policy ships.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from agents.layers import Layers
from supervised.errors import SafeError

LOST = "the policy is no longer finite"


class Diverged(SafeError):
    """Training left the finite numbers; its settings are of no use.

    Args:
        seed: of the run.
        what: is not finite.
        section: of the configuration, whose learning rate it was: ppo, exact or distill.
    """

    def __init__(self, seed: int, what: str, section: str) -> None:
        self.reason = f"seed {seed}: {what}"
        super().__init__(f"Training diverged, {self.reason}; lower {section}.learning_rate.")


def check_figures(figures: Mapping[str, float], seed: int, section: str) -> None:
    """Refuse an entry of the history with a figure that is no finite number.

    Raises:
        Diverged: names the first one, and the step.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise Diverged(seed, f"{name} is {value} after {figures['step']:.0f} steps", section)


def check_layers(layers: Layers, seed: int, section: str) -> None:
    """Refuse layers with a number that is not finite.

    Raises:
        Diverged: there is one.
    """
    if not all(np.isfinite(part).all() for layer in layers for part in layer):
        raise Diverged(seed, LOST, section)


@contextmanager
def sampling(seed: int, section: str) -> Iterator[None]:
    """Tell weights that are no longer numbers, which torch meets first when it samples from them, from our mistakes.

    Raises:
        Diverged: torch met such weights in the block.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if re.search(r"probability tensor contains|found invalid values", str(error)):
            raise Diverged(seed, LOST, section) from error
        raise
