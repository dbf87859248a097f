"""What goes to the environments and what they report: actions (N, ...) go, rewards (N,) and costs (N, K) come."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from supervised.errors import ConfigError, DataError


def check_rewards(rewards: np.ndarray) -> None:
    """Refuse rewards (N,) of which one is not a finite number.

    Raises:
        DataError: one is NaN or infinite.
    """
    if not np.isfinite(rewards).all():
        raise DataError(
            f"A reward must be a finite number, got {float(rewards[~np.isfinite(rewards)][0])}; "
            f"check the environment's scores and latencies."
        )


def check_environment(normalize: VecNormalize | None, action_space: spaces.Space[Any]) -> None:
    """Refuse an environment that PPOLagrangian would learn something wrong on.

    Raises:
        ConfigError: it normalises rewards, or its actions do not begin at 0.
    """
    if normalize is not None and normalize.norm_reward:
        raise ConfigError(
            "VecNormalize rescales rewards but not costs, so the multiplier would lose its unit, reward per cost; "
            "use VecNormalize(env, norm_reward=False)."
        )
    first = np.asarray(getattr(action_space, "start", 0))
    if np.any(first != 0):
        raise ConfigError(f"Actions must begin at 0, got {action_space}; shift them inside the environment.")


def within_bounds(actions: Tensor, action_space: spaces.Space[Any]) -> np.ndarray:
    """Return the actions that the environments take, (N, ...) in the shape of the space, a Box's within its bounds."""
    taken = actions.cpu().numpy().reshape(-1, *(action_space.shape or ()))
    if isinstance(action_space, spaces.Box):  # samples of a Gaussian know no bounds
        return np.clip(taken, action_space.low, action_space.high)
    return np.asarray(taken)


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
            told = next(sorted(info) for info in infos if "cost" not in info)
            raise ConfigError(
                f"PPOLagrangian needs info['cost'] after every step, got only {told}; "
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

    def restart(self) -> None:
        """Forget the open episodes: the environments were reset."""
        self.running = np.zeros_like(self.running)
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
