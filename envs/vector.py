"""The gymnasium vector face of `safe_rl/AudioGate-v0`: a whole batch per step, autoreset in the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import Action
from envs.audio_gate import observation_space
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.normaliser import ObservationNormaliser
from envs.outcomes import OutcomeTable
from envs.source import open_split
from supervised.errors import ConfigError


class AudioGateVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """`num_envs` questions a step; each is an episode, and the next one is shown in the same step.

    It has neither token cap nor audio share: the curriculum moves those on `AudioGateVecEnv`, which PPO learns from.

    Arguments as in `AudioGateEnv`; questions are drawn uniformly. `reset(options={"index": [...]})` chooses them.
    The infos of a step are those of the questions answered: `final_info` has cost [N, K], score, latency_ms, use,
    index; `final_obs` their observations; `index` on the outside is that of the questions shown now.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - gymnasium's form

    def __init__(
        self,
        num_envs: int = 1,
        table: OutcomeTable | Path | str | None = None,
        split: str = "train",
        alpha: float = RewardConfig.alpha,
        gamma: float = RewardConfig.gamma,
        token_weight: float = 0.0,
        normaliser: ObservationNormaliser | None = None,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {num_envs}; use e.g. 64.")
        if render_mode is not None:
            raise ConfigError(f"render_mode must be None for many questions at once, got {render_mode!r}; use None.")
        self.num_envs = num_envs
        self.batches = OutcomeBatches(open_split(table, split), RewardConfig(alpha, gamma, token_weight), normaliser)
        self.single_observation_space = observation_space(self.batches.problem.widths, self.batches.normaliser)
        self.single_action_space = spaces.Discrete(len(self.batches.problem.actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rows = np.zeros(0, dtype=np.int64)

    def set_alpha(self, alpha: float) -> None:
        """Set the price of latency from the next step on."""
        self.batches.set_alpha(alpha)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Draw questions, or take those of `options={"index": [i, ...]}`."""
        # One generator draws for all rows; of a list of seeds the first one counts.
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        index = (options or {}).get("index")
        if index is None:
            return self._draw()
        rows = np.asarray(index, dtype=np.int64)
        if rows.shape != (self.num_envs,) or rows.min() < 0 or rows.max() >= len(self.batches):
            raise ConfigError(
                f"options index needs {self.num_envs} numbers in 0 .. {len(self.batches) - 1}, got shape "
                f"{list(rows.shape)}; choose others."
            )
        self.rows = rows
        return self._shown()

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Answer the questions shown and show the next ones."""
        if len(self.rows) == 0:
            raise gymnasium.error.ResetNeeded("no question is shown; call reset() before step().")
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.num_envs,):
            raise gymnasium.error.InvalidAction(f"{self.num_envs} actions are needed, got shape {actions.shape}.")
        allowed = len(self.batches.problem.actions)
        if actions.min() < 0 or actions.max() >= allowed:  # NumPy would take -1 as the last action
            raise gymnasium.error.InvalidAction(
                f"actions must be 0 .. {allowed - 1}, got {np.unique(actions).tolist()}."
            )
        answered, split = self.rows, self.batches.split
        reward, cost = self.batches.outcome(answered, actions)
        final = {
            "index": answered.copy(),
            "cost": cost,
            "score": split.score[answered, actions],
            "latency_ms": split.latency_ms[answered, actions],
            "use": actions != Action.SKIP,
        }
        last = self.batches.observe(answered)
        final_obs = np.empty(self.num_envs, dtype=object)
        final_obs[:] = [{name: values[row].copy() for name, values in last.items()} for row in range(self.num_envs)]
        observation, info = self._draw()
        info |= {"final_info": final | self._masks(final), "final_obs": final_obs}
        info |= self._masks({"final_info": None, "final_obs": None})
        ended = np.ones(self.num_envs, dtype=bool)
        return observation, reward.astype(np.float64), ended, ~ended, info

    def _draw(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self.rows = self.np_random.integers(len(self.batches), size=self.num_envs)
        return self._shown()

    def _shown(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        info: dict[str, Any] = {"index": self.rows.copy()}
        return self.batches.observe(self.rows), info | self._masks(info)

    def _masks(self, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return gymnasium's `_key` masks: every row has every entry."""
        return {f"_{name}": np.ones(self.num_envs, dtype=bool) for name in info}
