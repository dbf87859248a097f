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

from envs.actions import Action
from envs.audio_gate import observation_space
from envs.batch import OutcomeBatches, RowSampler
from envs.config import RewardConfig
from envs.mixture import AudioMixture
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
        batches: Rows with their rewards and costs, in place of all that says where they come from.
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
        batches: OutcomeBatches | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {num_envs}; use e.g. 2048.")
        if batches is None:
            rows = table if isinstance(table, TableSplit) else open_split(table, split)
            batches = OutcomeBatches(rows, reward or RewardConfig(), normaliser)
        self.batches = batches
        self.sampler = RowSampler(len(batches), seed)
        self._seed = seed
        self._mixture: AudioMixture | None = None
        self.cap: int | None = None
        """Audio tokens that an action may use at present; None: any number."""
        self.audio_share: float | None = None
        """Share of audio questions at present; None: that of the split."""
        self._drawn_share: float | None = None  # of the rows shown, which were drawn before
        self._carried_out = np.arange(len(batches.problem.actions))
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

    @property
    def action_tokens(self) -> tuple[int, ...] | None:
        """Audio tokens of every action, or None where the table does not tell."""
        return self.batches.problem.action_tokens

    @property
    def natural_audio_share(self) -> float:
        """Share of the split's questions that belong to no retention set."""
        return float(np.mean(self.batches.split.retention_set < 0))

    def set_cap(self, cap: int | None) -> None:
        """Carry out actions of more than `cap` audio tokens as the largest within it from the next step on; None: all.

        The paying action of fewest tokens is always within the cap, and a table that does not tell tokens knows no cap.
        """
        self.cap = cap
        self._carried_out = np.arange(len(self.batches.problem.actions))
        if cap is None or self.action_tokens is None:
            return
        tokens = np.asarray(self.action_tokens)  # [A]
        paying = self._carried_out != Action.SKIP
        within = tokens <= max(cap, tokens[paying].min())
        largest = np.argmax(np.where(within & paying, tokens, -1))
        self._carried_out[paying & ~within] = largest

    def set_audio_share(self, share: float | None) -> None:
        """Draw this share of audio questions from the next step on; None: epochs over the whole split.

        Costs are weighted so that their mean is the drop on the whole split at any share; see `envs.mixture`.

        Raises:
            ConfigError: the share is outside [0, 1], or the split has questions of one kind only.
        """
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"the share of audio questions must lie in [0, 1], got {share}; use e.g. 0.8.")
        if share is not None and self._mixture is None:
            self._mixture = self._mix()
        self.audio_share = share

    def observe(self, rows: np.ndarray) -> Any:
        """Return the observations of some rows of the split, as `reset` and `step` give them."""
        return self.batches.flat(rows) if self.flat else self.batches.observe(rows)

    def reset(self) -> Any:
        """Show the next questions."""
        if self._seeds and self._seeds[0] is not None:
            self._seed = self._seeds[0]
            self.sampler.seed(self._seed)
            if self._mixture is not None:
                self._mixture = self._mix()
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
        reward, cost = self.batches.outcome(self.rows, self._carried_out[self._actions])
        if self._mixture is not None and self._drawn_share is not None:
            cost = cost * self._mixture.cost_weights(self.rows, self._drawn_share)[:, None]
        self.last_cost = cost
        infos: list[dict[str, Any]] = [{"cost": cost} for cost in self.last_cost]
        return self._next(), reward, np.ones(self.num_envs, dtype=bool), infos

    def get_state(self) -> dict[str, Any]:
        """Return generators, cursors, rows shown, alpha, cap and share as JSON: enough for an exact continuation."""
        return {
            **self.sampler.get_state(),
            "rows": self.rows.tolist(),
            "alpha": self.batches.config.alpha,
            "cap": self.cap,
            "audio_share": self.audio_share,
            "drawn_share": self._drawn_share,
            "mixture": None if self._mixture is None else self._mixture.get_state(),
        }

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
        self.set_cap(state.get("cap"))
        self.audio_share, self._drawn_share = state.get("audio_share"), state.get("drawn_share")
        self._mixture = None if state.get("mixture") is None else self._mix()
        if self._mixture is not None:
            self._mixture.set_state(state["mixture"])
        self._reset_seeds()  # a seed set in between would shuffle again at the next reset
        return self.observe(rows) if len(rows) else None

    def _next(self) -> Any:
        self._drawn_share = self.audio_share
        if self.audio_share is None or self._mixture is None:
            self.rows = self.sampler.draw(self.num_envs)
        else:
            self.rows = self._mixture.draw(self.num_envs, self.audio_share)
        return self.observe(self.rows)

    def _mix(self) -> AudioMixture:
        return AudioMixture(self.batches.split.retention_set < 0, self._seed)

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per environment asked for."""
        value = getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

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
