"""The stable-baselines3 face of the environment: a VecEnv that gathers a whole batch of questions at once.

With `n_steps=1` one rollout is one forward pass and one gather: row i of a step is question `rows[i]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from envs.audio_gate import observation_space
from envs.batch import OutcomeBatches, RowSampler
from envs.config import RewardConfig
from envs.normaliser import CLIP, ObservationNormaliser
from envs.outcomes import OutcomeTable, TableSplit
from envs.source import open_split
from supervised.errors import CheckpointError, ConfigError


class AudioGateVecEnv(VecEnv):
    """Questions in shuffled epochs without replacement, `num_envs` at a time, each an episode of one step.

    Args:
        table: A folder, an opened table or one split of it; None: the small table that ships.
        num_envs: Questions in a step.
        split: The split, where `table` is not one already.
        reward: Weights of the reward; `set_alpha` changes alpha later.
        normaliser: Normalisation of a trained policy; None: that of the table's train split.
        seed: Seed of the shuffle.
        flat: Observations as one Box [D], features side by side, in place of a Dict.
    """

    def __init__(
        self,
        table: OutcomeTable | TableSplit | Path | str | None = None,
        num_envs: int = 2048,
        split: str = "train",
        reward: RewardConfig | None = None,
        normaliser: ObservationNormaliser | None = None,
        seed: int | None = None,
        flat: bool = False,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {num_envs}; use e.g. 2048.")
        rows = table if isinstance(table, TableSplit) else open_split(table, split)
        self.batches = OutcomeBatches(rows, reward or RewardConfig(), normaliser)
        self.sampler = RowSampler(len(rows), seed)
        self.flat = flat
        self.render_mode: str | None = None
        self.rows = np.zeros(0, dtype=np.int64)
        """Rows shown at present, int64 [num_envs]."""
        self.last_cost = np.zeros((num_envs, len(self.batches.problem.retention_sets)), dtype=np.float32)
        """Costs of the last step, float32 [num_envs, K]; the same as in the infos, without a loop."""
        self._actions = np.zeros(0, dtype=np.int64)
        space: spaces.Space[Any] = observation_space(self.batches.problem.widths, self.batches.normaliser)
        if flat:
            space = spaces.Box(-CLIP, CLIP, (sum(self.batches.problem.widths.values()),), np.float32)
        super().__init__(num_envs, space, spaces.Discrete(len(self.batches.problem.actions)))

    def set_alpha(self, alpha: float) -> None:
        """Set the price of latency from the next step on."""
        self.batches.set_alpha(alpha)

    def observe(self, rows: np.ndarray) -> Any:
        """Return the observations of some rows of the split, as `reset` and `step` give them."""
        features = self.batches.observe(rows)
        return np.concatenate(list(features.values()), axis=1) if self.flat else features

    def reset(self) -> Any:
        """Show the next questions."""
        if self._seeds and self._seeds[0] is not None:
            self.sampler.seed(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        return self._next()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the shuffle at the next reset."""
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        return super().seed(seed)

    def step_async(self, actions: np.ndarray) -> None:
        """Take one action per question shown."""
        self._actions = np.asarray(actions, dtype=np.int64).reshape(-1)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Return the next questions, and reward, end and cost of the last ones."""
        if len(self._actions) != len(self.rows) or len(self.rows) == 0:
            raise gymnasium.error.ResetNeeded(
                f"{len(self._actions)} actions for {len(self.rows)} questions; call reset() first, then give "
                f"{self.num_envs} actions."
            )
        reward, self.last_cost = self.batches.outcome(self.rows, self._actions)
        infos: list[dict[str, Any]] = [{"cost": cost} for cost in self.last_cost]
        return self._next(), reward, np.ones(self.num_envs, dtype=bool), infos

    def get_state(self) -> dict[str, Any]:
        """Return generator, cursor, rows shown and alpha as JSON: enough for an exact continuation."""
        return {**self.sampler.get_state(), "rows": self.rows.tolist(), "alpha": self.batches.config.alpha}

    def set_state(self, state: dict[str, Any]) -> Any:
        """Go on exactly where `get_state` was called; returns the observations shown then (None before a reset).

        Raises:
            CheckpointError: the state is of another table or of another number of environments.
        """
        rows = np.asarray(state["rows"], dtype=np.int64)
        if len(rows) not in (0, self.num_envs) or np.any(rows >= len(self.batches)):
            raise CheckpointError(
                f"the environment's state is for {len(rows)} questions of another table, here are {self.num_envs} of "
                f"{len(self.batches)}; resume with the table and the settings of the run."
            )
        self.sampler.set_state(state)
        self.rows = rows
        self.set_alpha(float(state["alpha"]))
        self._reset_seeds()  # a seed set in between would shuffle again at the next reset
        return self.observe(rows) if len(rows) else None

    def _next(self) -> Any:
        self.rows = self.sampler.draw(self.num_envs)
        return self.observe(self.rows)

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per environment asked for."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all environments: they are one object."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method once (the environments are one object); the result stands for each."""
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._get_indices(indices)]
