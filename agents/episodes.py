"""What the environments report: rewards (N,), costs (N, K) and ends of episodes go in, means per episode come out."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from supervised.errors import ConfigError, DataError


def read_costs(env: VecEnv, infos: list[dict[str, Any]], n_constraints: int) -> tuple[np.ndarray, bool]:
    """Return the costs of the last step (N, K), and whether they came from the environment's own array.

    Raises:
        ConfigError: an info carries no cost, or one of another shape.
        DataError: a cost is not a finite number.
    """
    last_cost = getattr(env, "last_cost", None)  # wrappers of stable-baselines3 pass it through
    if last_cost is not None:
        costs = np.asarray(last_cost, dtype=np.float32)
    else:
        try:
            costs = np.stack([np.atleast_1d(np.asarray(info["cost"], dtype=np.float32)) for info in infos])
        except KeyError:
            raise ConfigError(
                f"PPOLagrangian needs info['cost'] after every step, got only {sorted(infos[0])}; "
                f"let the environment report a float, or an array with one cost per constraint."
            ) from None
        except (ValueError, TypeError):
            raise ConfigError(
                "info['cost'] must be a float or a flat array of the same length after every step; "
                f"the first environment gave {infos[0].get('cost')!r}."
            ) from None
    if costs.shape != (env.num_envs, n_constraints):
        raise ConfigError(
            f"The environment reports costs of shape {costs.shape[1:]} per step, the agent was made for "
            f"{n_constraints} constraint(s); pass n_constraints or a list of limits of that length."
        )
    if not np.isfinite(costs).all():
        raise DataError("A cost must be a finite number, got NaN or infinity; check info['cost'].")
    return costs, last_cost is not None


class EpisodeMeter:
    """Mean undiscounted reward and cost of all episodes that end in a rollout, across rollouts where they are long."""

    def __init__(self, num_envs: int, n_constraints: int) -> None:
        self.running = np.zeros((num_envs, 1 + n_constraints))  # (N, 1 + K): reward, costs of the open episodes
        self._clear()

    def _clear(self) -> None:
        self._sum = np.zeros(self.running.shape[1])
        self._count = 0

    def add(self, rewards: np.ndarray, costs: np.ndarray, dones: np.ndarray) -> None:
        """Take in one step: rewards (N,), costs (N, K), dones (N,)."""
        self.running[:, 0] += rewards
        self.running[:, 1:] += costs
        self._sum += self.running[dones].sum(axis=0)
        self._count += int(np.count_nonzero(dones))
        self.running[dones] = 0.0

    def means(self) -> tuple[float | None, np.ndarray | None]:
        """Return mean reward and mean costs [K] of the episodes since the last call; None where none ended."""
        if self._count == 0:
            return None, None
        mean = self._sum / self._count
        self._clear()
        return float(mean[0]), mean[1:]
