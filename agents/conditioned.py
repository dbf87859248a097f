"""One network for every price: state and prices (alpha, gamma, multipliers) go in, their policy comes out.

The exact agent maximises what is linear in its prices: score - alpha latency - gamma irrelevance - multiplier . cost.
Training draws prices anew for every row, so that one network answers for all of them (as universal value functions do
for goals, Schaul et al. 2015). A limit needs no training: its multiplier is found by bisection on rows of known cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from safetensors import SafetensorError
from safetensors.torch import load_file

from agents.divergence import check_layers, run_of
from agents.dual import settle
from agents.exact import ExactLearner, GateNetwork
from agents.gate_policy import GatePolicy
from agents.layers import linear_layers
from agents.multiplier import checked_limits
from agents.task import Task
from envs.batch import RowSampler
from supervised.differences import differences
from supervised.errors import CheckpointError, ConfigError
from supervised.files import sha256_file, write_json, write_tensors

SWEEPS = 4
TENSORS, DESCRIPTION = "network.safetensors", "network.json"


@dataclass(frozen=True)
class Prices:
    """Largest prices that a network answers for; the multipliers reach up to `lagrangian.maximum`."""

    alpha: float = 2.0
    gamma: float = 0.2

    def check(self, alpha: float, gamma: float) -> None:
        """Raise ConfigError for a price beyond the largest."""
        for name, given in (("alpha", alpha), ("gamma", gamma)):
            largest = getattr(self, name)
            if not 0 <= given <= largest:
                raise ConfigError(
                    f"The network was trained for {name} between 0 and {largest:g}, got {given:g}; train one for more."
                )


class ConditionedPolicy:
    """A policy of every price.

    Args:
        task: rows, limits, and retention rows that tell what a policy costs.
        prices: largest prices.
        network: takes normalised features and scaled prices side by side; None: a fresh one.
    """

    def __init__(self, task: Task, prices: Prices, network: GateNetwork | None = None) -> None:
        self.task, self.prices = task, prices
        self.maximum = task.config.lagrangian.maximum
        problem, exact = task.rows.problem, task.config.exact
        th.manual_seed(task.seed)
        width = sum(problem.widths.values()) + 2 + len(task.limits)
        self.network = network or GateNetwork(width, exact.hidden, len(problem.actions), exact.activation)

    def train(self, progress: Callable[[int], None] | None = None) -> None:
        """Train on the task's rows; the network is then the average of its weights over training.

        Args:
            progress: called after every step with its number.

        Raises:
            Diverged: training left the finite numbers.
        """
        task, exact = self.task, self.task.config.exact
        # Rows that come with new prices every time are not learned by heart: nothing is to be gained by decay.
        learner = ExactLearner(self.network, replace(exact, weight_decay=0.0))
        sampler, rng = RowSampler(len(task.rows), task.seed), np.random.default_rng(task.seed)
        for step in range(1, exact.steps + 1):
            drawn = sampler.draw(min(exact.batch_size, len(task.rows)))
            alpha, gamma, multipliers = self._draw(rng, len(drawn))
            gain = self._gain(drawn, alpha, gamma, multipliers)
            features = np.concatenate([task.rows.flat(drawn), self._scaled(alpha, gamma, multipliers)], axis=1)
            learner.step(th.from_numpy(features), th.from_numpy(gain))
            if progress is not None:
                progress(step)
        self.network = learner.average.network
        with run_of(task.seed, "exact"):
            check_layers(linear_layers(self.network), exact.steps)

    def at(self, alpha: float, gamma: float, multipliers: np.ndarray) -> GatePolicy:
        """Return the policy of some prices as an ordinary one.

        Raises:
            ConfigError: alpha or gamma lies beyond what the network was trained for.
        """
        rows, activation = self.task.rows, self.task.config.exact.activation
        layers = linear_layers(self._folded(alpha, gamma, multipliers))
        return GatePolicy(rows.normaliser, layers, rows.problem.actions, activation)

    def solve(
        self, alpha: float, gamma: float, limits: float | Sequence[float] | np.ndarray | None = None
    ) -> tuple[GatePolicy, np.ndarray]:
        """Return the policy that meets the limits at these prices, and its multipliers [K].

        Args:
            alpha: price of latency.
            gamma: price of irrelevance.
            limits: on the mean cost [K]; None: those of the task. One that no multiplier meets gets the largest.

        Raises:
            ConfigError: a price lies beyond what the network was trained for, or the limits are not K numbers >= 0.
        """
        if limits is None:
            limits = self.task.limits
        else:
            limits = checked_limits(self.task.config.lagrangian, limits, len(self.task.limits))

        def spent(k: int, multipliers: np.ndarray) -> Callable[[float], float]:
            return partial(self._spent, alpha, gamma, k, multipliers)

        multipliers = settle(spent, limits, self.maximum, SWEEPS)
        return self.at(alpha, gamma, multipliers), multipliers

    def _spent(self, alpha: float, gamma: float, k: int, multipliers: np.ndarray, multiplier: float) -> float:
        """Return what the policy costs constraint `k`, margin included, if its multiplier were this one."""
        tried = np.where(np.arange(len(multipliers)) == k, multiplier, multipliers)
        return float(self.task.retention.decided_cost(self._folded(alpha, gamma, tried))[1][k])

    def save(self, directory: Path) -> None:
        """Write the network, its largest prices and what it is about as safetensors and JSON, the JSON last."""
        (directory / DESCRIPTION).unlink(missing_ok=True)  # an earlier network's: a kill must not leave half of each
        write_tensors(directory / TENSORS, {name: value.numpy() for name, value in self.network.state_dict().items()})
        facts = {"prices": asdict(self.prices), "task": self._about(), "sha256": sha256_file(directory / TENSORS)}
        write_json(directory / DESCRIPTION, facts)

    @classmethod
    def load(cls, directory: Path, task: Task) -> ConditionedPolicy:
        """Read what `save` wrote for the same task.

        Raises:
            CheckpointError: a file is missing or damaged, or the network is of another task.
        """
        try:
            description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
            if sha256_file(directory / TENSORS) != description["sha256"]:
                raise CheckpointError(f"{directory / TENSORS} has a wrong checksum; delete {directory} to train again.")
            policy = cls(task, Prices(**description["prices"]))
            about = policy._about()
            for name, there, here in differences(description.get("task", about), about):  # earlier files do not tell
                raise CheckpointError(
                    f"The network in {directory} is of another task ({name} {there} there, {here} here); give its own, "
                    f"or delete the folder to train it again."
                )
            policy.network.load_state_dict(load_file(directory / TENSORS))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The network in {directory} is missing, damaged or of another task ({type(error).__name__}); "
                f"delete the folder to train it again."
            ) from error
        return policy

    def _about(self) -> dict[str, Any]:
        """Return what weights do not tell: by another table, scale or activation they would be read wrongly."""
        return {
            "table": self.task.rows.split.table.fingerprint,
            "maximum": float(self.maximum),
            "activation": self.task.config.exact.activation,
        }

    def _folded(self, alpha: float, gamma: float, multipliers: np.ndarray) -> GateNetwork:
        """Return the network of these prices alone: prices that do not change are part of the first bias."""
        self.prices.check(alpha, gamma)
        scaled = self._scaled(np.array([alpha]), np.array([gamma]), np.asarray(multipliers)[None])
        return self.network.folded(th.from_numpy(scaled[0]))

    def _draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw alpha [n] and gamma [n] uniformly; multipliers [n, K] mostly small, and often 0; float32."""
        shape = (n, len(self.task.limits))
        multipliers = np.expm1(rng.random(shape) * np.log1p(self.maximum)) * (rng.random(shape) > 0.3)
        alpha, gamma = rng.random(n) * self.prices.alpha, rng.random(n) * self.prices.gamma
        return alpha.astype(np.float32), gamma.astype(np.float32), multipliers.astype(np.float32)

    def _gain(self, rows: np.ndarray, alpha: np.ndarray, gamma: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
        """Return what every action is worth at its row's prices, float32 [m, A]."""
        reward, cost = self.task.rows.priced(rows, alpha[:, None], gamma[:, None])
        worth = reward - np.einsum("nka,nk->na", cost, multipliers)
        return np.asarray(worth / (1.0 + multipliers.sum(axis=1, keepdims=True)))

    def _scaled(self, alpha: np.ndarray, gamma: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
        """Return the prices as inputs of the network, float32 [n, 2 + K]."""
        scaled = np.log1p(multipliers) / max(np.log1p(self.maximum), 1e-9)
        largest = (max(self.prices.alpha, 1e-9), max(self.prices.gamma, 1e-9))
        parts = [alpha[:, None] / largest[0], gamma[:, None] / largest[1], scaled]
        return np.concatenate(parts, axis=1).astype(np.float32) * 2 - 1
