"""Training that leaves the finite numbers: what shows it goes in, one line that says what to lower comes out.

Settings of a user lead there, a learning rate above all; so it is told as what it is, and no such policy ships.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from agents.layers import Layers
from supervised.errors import DataError, SafeError

COMPLAINTS = r"probability tensor contains|found invalid values"
"""What torch says of a distribution whose parameters are no longer numbers."""


class Diverged(SafeError, ArithmeticError):
    """Training left the finite numbers; its settings are of no use.

    Args:
        what: is not finite.
        seed: of the run; None: it is not known here.
        section: of the configuration, whose learning rate it was: ppo, exact or distill; empty: there is none.
    """

    def __init__(self, what: str, seed: int | None = None, section: str = "") -> None:
        self.what = what
        self.reason = what if seed is None else f"seed {seed}: {what}"
        super().__init__(f"Training diverged, {self.reason}; lower {section and section + '.'}learning_rate.")


def lost(step: int) -> Diverged:
    """Return the error of a policy that is of no use after `step` steps."""
    return Diverged(f"the policy is no longer finite after {step} steps")


def check_figures(figures: Mapping[str, float]) -> None:
    """Refuse an entry of the history with a figure that is no finite number.

    Raises:
        Diverged: names the first one, and the step.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} after {figures['step']:.0f} steps")


def check_layers(layers: Layers, step: int) -> None:
    """Refuse layers, learned in `step` steps, with a number that is not finite.

    Raises:
        Diverged: there is one.
    """
    if not all(np.isfinite(part).all() for layer in layers for part in layer):
        raise lost(step)


@contextmanager
def run_of(seed: int, section: str) -> Iterator[None]:
    """Tell, of a training that diverges in the block, whose it was.

    Raises:
        Diverged: with the seed, and the section of the configuration.
    """
    try:
        yield
    except Diverged as error:
        raise Diverged(error.what, seed, section) from error


@contextmanager
def sampling(step: int, observations: np.ndarray | Mapping[str, np.ndarray] | None = None) -> Iterator[None]:
    """Tell, where torch finds no distribution, whether the policy is no longer finite, or what it was shown.

    Args:
        step: steps of the run so far.
        observations: what the policy was shown; None: it was checked before.

    Raises:
        DataError: an observation is NaN or infinite.
        Diverged: the policy is.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not re.search(COMPLAINTS, str(error)):
            raise
        shown: list[Any] = list(observations.values()) if isinstance(observations, Mapping) else [observations]
        if observations is not None and not all(np.isfinite(part).all() for part in shown):
            raise DataError(
                "An observation must hold finite numbers, got NaN or infinity; check the environment, e.g. with "
                "stable-baselines3's VecCheckNan."
            ) from error
        raise lost(step) from error
