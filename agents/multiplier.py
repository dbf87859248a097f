"""The Lagrange multiplier: measured costs [K] go in, one multiplier per constraint [K] comes out, once per rollout.

    integral   <- integral + lr * (cost - limit)                                         sgd: this is the multiplier
    multiplier <- clip(integral + lr * proportional * (average cost - limit)             pi
                                + lr * derivative * max(0, rise of the average cost),    pid
                       0, maximum)

Plain ascent rather than Adam, whose step on a scalar is about lr whatever the violation is. PI and PID after Stooke et
al. (arXiv:2007.03964, algorithm 2). The integral moves only until the multiplier reaches a bound (no wind-up), the rise
is that of the cost, not of the excess (a limit that moves gives no kick), and it is 0 at the first measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agents.config import LagrangianConfig
from supervised.errors import CheckpointError, ConfigError

UNKNOWN = np.nan  # a cost before the first measurement


class LagrangeMultiplier:
    """K multipliers between 0 and `maximum`, the price of one unit of each cost in units of reward.

    Example:
        >>> multiplier = LagrangeMultiplier(LagrangianConfig(limit=0.25, lr=0.5, maximum=1.0))
        >>> [float(multiplier.update([cost])[0]) for cost in (0.75, 0.25, 0.0)]
        [0.25, 0.25, 0.125]
    """

    def __init__(self, config: LagrangianConfig, n_constraints: int = 1) -> None:
        self.config = config
        self.limit = np.asarray(config.limits(n_constraints), dtype=np.float64)  # [K]
        self.value = np.full(n_constraints, config.initial or 0.0)  # [K]; None: whoever knows better sets it
        self.cost = np.full(n_constraints, UNKNOWN)  # [K], the last measurement
        self.average = np.full(n_constraints, UNKNOWN)  # [K], of the measurements, the newest weighing most
        self.rise = np.zeros(n_constraints)  # [K], of the average since the last measurement

    @property
    def value(self) -> np.ndarray:
        """The multipliers [K]; setting them starts anew from there."""
        return self._value

    @value.setter
    def value(self, value: np.ndarray) -> None:
        self._value = np.array(value, dtype=np.float64)
        self.integral = self._value.copy()  # [K], the part that dual ascent moves

    def start_at(self, value: np.ndarray) -> None:
        """Begin at these multipliers [K] instead, cut to what is allowed."""
        self.value = np.clip(np.asarray(value, dtype=np.float64), 0.0, self.config.maximum)

    def update(self, cost: Sequence[float] | np.ndarray) -> np.ndarray:
        """Take one step on the measured mean costs [K] and return the multipliers [K]."""
        self.observe(cost)
        config = self.config
        answer = np.zeros_like(self._value)
        if config.update != "sgd":
            answer += config.lr * config.proportional * (self.average - self.limit)
        if config.update == "pid":
            answer += config.lr * config.derivative * np.maximum(self.rise, 0.0)
        moved = self.integral + config.lr * self.excess
        lowest = np.minimum(self.integral, -answer)  # further down, integral + answer would be below 0
        highest = np.maximum(self.integral, config.maximum - answer)
        self.integral = np.clip(np.clip(moved, lowest, highest), 0.0, config.maximum)
        self._value = np.clip(self.integral + answer, 0.0, config.maximum)
        return self._value.copy()

    def observe(self, cost: Sequence[float] | np.ndarray) -> None:
        """Remember the measured mean costs [K] without a step."""
        measured = np.asarray(cost, dtype=np.float64)
        if measured.shape != self.value.shape:
            raise ConfigError(
                f"There are {len(self.value)} constraints, but costs of shape {measured.shape} were measured; "
                f"give one cost per constraint."
            )
        if not np.isfinite(measured).all():
            raise ConfigError(f"A measured cost must be a finite number, got {measured.tolist()}; check info['cost'].")
        before = np.where(np.isnan(self.average), measured, self.average)
        self.average = self.config.smoothing * before + (1.0 - self.config.smoothing) * measured
        self.rise = self.average - before
        self.cost = measured

    def set_limits(self, limits: float | Sequence[float] | np.ndarray) -> None:
        """Hold the costs below other limits from the next step on: one number, or one per constraint [K].

        Raises:
            ConfigError: the limits are not numbers >= 0, or not one per constraint.
        """
        self.limit = checked_limits(self.config, limits, len(self.value))

    @property
    def excess(self) -> np.ndarray:
        """Cost above the limit [K]; negative where there is room, NaN before the first measurement."""
        return self.cost - self.limit

    @property
    def saturated(self) -> np.ndarray:
        """Whether a multiplier stands at its maximum and the cost is still above the limit, bool [K].

        A maximum of 0 switches the constraints off: no limit is infeasible that nobody tries to keep.
        """
        return (self.value >= self.config.maximum) & (self.excess > 0) & (self.config.maximum > 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON values; floats survive exactly."""
        return {
            "limit": self.limit.tolist(),
            "value": self.value.tolist(),
            "integral": self.integral.tolist(),
            "cost": _to_json(self.cost),
            "average": _to_json(self.average),
            "rise": self.rise.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: the state belongs to another number of constraints.
        """
        parts = {name: np.asarray(state[name], dtype=np.float64) for name in self.state_dict()}  # None becomes NaN
        if any(part.shape != self.value.shape for part in parts.values()):
            raise CheckpointError(
                f"The saved agent has {len(state['value'])} constraints, this run has {len(self.value)}; "
                f"resume with the table and limit that the run was started with."
            )
        self.limit, self._value, self.integral = parts["limit"], parts["value"], parts["integral"]
        self.cost, self.average, self.rise = parts["cost"], parts["average"], parts["rise"]


def checked_limits(
    config: LagrangianConfig, limits: float | Sequence[float] | np.ndarray, n_constraints: int
) -> np.ndarray:
    """Return limits [K] that pass the checks of the configuration, whose own limits they replace."""
    given = np.asarray(limits)
    limit = tuple(given.ravel().tolist()) if given.ndim else given.item()
    return np.asarray(replace(config, limit=limit).limits(n_constraints), dtype=np.float64)


def _to_json(costs: np.ndarray) -> list[float | None]:
    return [None if np.isnan(cost) else float(cost) for cost in costs]  # JSON has no NaN
