"""Small decision problems with known answers, and a small outcome table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from envs.outcomes import OutcomeTable
from envs.table_format import Header
from envs.table_writer import TableWriter


class Bandit(VecEnv):
    """Rows with observation [n, D], reward [n, A], cost [n, K, A]; every step is an episode on a random row."""

    def __init__(
        self,
        x: np.ndarray,
        reward: np.ndarray,
        cost: np.ndarray,
        num_envs: int,
        fast: bool = True,
        as_dict: bool = False,
    ) -> None:
        self.x, self.reward, self.cost, self.fast, self.as_dict = x.astype(np.float32), reward, cost, fast, as_dict
        self.rng = np.random.default_rng(0)
        self.last_cost: np.ndarray | None = None
        self.alpha: float | None = None
        box = spaces.Box(-10, 10, (x.shape[1],), np.float32)
        space = spaces.Dict({"a": box, "b": box}) if as_dict else box
        super().__init__(num_envs, space, spaces.Discrete(reward.shape[1]))

    def _next(self) -> Any:
        self.rows = self.rng.integers(len(self.x), size=self.num_envs)
        x = self.x[self.rows]
        return {"a": x, "b": x.copy()} if self.as_dict else x

    def reset(self) -> Any:
        return self._next()

    def seed(self, seed: int | None = None) -> Any:
        self.rng = np.random.default_rng(seed)
        return super().seed(seed)

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions.reshape(-1)

    def step_wait(self) -> Any:
        reward = self.reward[self.rows, self.actions].astype(np.float32)
        cost = self.cost[self.rows, :, self.actions].astype(np.float32)
        self.last_cost = cost if self.fast else None
        infos = [{} if self.fast else {"cost": row} for row in cost]
        return self._next(), reward, np.ones(self.num_envs, dtype=bool), infos

    def set_alpha(self, alpha: float) -> None:
        self.alpha = alpha

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None if attr_name == "render_mode" else getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*method_args, **method_kwargs)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Knapsack(gymnasium.Env[np.ndarray, int]):
    """Items are offered one per step; action 1 takes the item: reward its gain, cost 1. Two actions, `length` steps."""

    def __init__(self, gains: list[float], length: int, cost: Any = 1.0, reward_of_skip: float = 0.0) -> None:
        self.gains, self.length, self.cost, self.reward_of_skip = gains, length, cost, reward_of_skip
        self.observation_space = spaces.Box(0, 1, (len(gains),), np.float32)
        self.action_space = spaces.Discrete(2)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.item = self._item()
        return np.eye(len(self.gains), dtype=np.float32)[self.item], {}

    def _item(self) -> int:
        return self.t if self.length > 1 else int(self.np_random.integers(len(self.gains)))

    def step(self, action: int) -> Any:
        reward = self.gains[self.item] if action == 1 else self.reward_of_skip
        info = {} if self.cost is None else {"cost": self.cost * int(action == 1)}
        self.t += 1
        done = self.t == self.length
        if not done:
            self.item = self._item()
        return np.eye(len(self.gains), dtype=np.float32)[self.item], float(reward), done, False, info


@pytest.fixture
def bandit() -> type[Bandit]:
    return Bandit


@pytest.fixture
def knapsack() -> type[Knapsack]:
    return Knapsack


@pytest.fixture(scope="session")
def make_table(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OutcomeTable]:
    """Build a table whose question feature tells the type, and whose confidence tells whether the base is right."""

    def build(rows: dict[int, int] | None = None, retention: bool = True, router: bool = False) -> OutcomeTable:
        directory: Path = tmp_path_factory.mktemp("table")
        rows = rows or {0: 600, 1: 300, 3: 300}
        rng = np.random.default_rng(0)
        n = sum(rows.values())
        vl = rng.random(n) < (0.5 if retention else 0.0)
        base = rng.random(n) < np.where(vl, 0.95, 0.4)
        use = rng.random(n) < np.where(vl, 0.85, 0.9)
        question = rng.normal(size=(n, 4)) * 0.3
        question[:, 0] += np.where(vl, 1.0, -1.0)
        confidence = rng.normal(size=(n, 2)) * 0.3
        confidence[:, 1] += np.where(base, 1.0, -1.0)
        widths = {"question": 4, "image": 3, "audio_preview": 2, "confidence": 0 if router else 2}
        writer = TableWriter(directory, Header(("skip", "use"), widths, ("vl",) if retention else ()))
        tensors: dict[str, np.ndarray] = {
            "question": question.astype(np.float32),
            "image": rng.normal(size=(n, 3)).astype(np.float32),
            "audio_preview": rng.normal(size=(n, 2)).astype(np.float32),
            "confidence": confidence.astype(np.float32),
            "score": np.stack([base, use], axis=1).astype(np.float32),
            "latency_ms": np.stack([np.full(n, 10.0), 15.0 + 10.0 * rng.random(n)], axis=1).astype(np.float32),
            "retention_set": np.where(vl, 0, -1).astype(np.int16),
            "group": (np.arange(n) // 2).astype(np.int64),
            "split": np.repeat(list(rows), list(rows.values())).astype(np.uint8),
        }
        if router:
            del tensors["confidence"]
        types = np.where(vl, "vl", "audio")
        records = [
            {"id": str(i), "question": "?", "answers": ["a"], "type": str(types[i]), "predictions": ["a", "b"]}
            for i in range(n)
        ]
        writer.write_part(tensors, records, n)
        writer.finish()
        return OutcomeTable.open(directory)

    return build


@pytest.fixture(scope="session")
def table(make_table: Callable[..., OutcomeTable]) -> OutcomeTable:
    return make_table()
