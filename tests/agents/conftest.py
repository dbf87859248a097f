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

from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import KnownProblem, KnownTable, write_known_table
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


class Knapsack(gymnasium.Env[np.ndarray, np.int64]):
    """Items are offered one per step; action 1 takes the item: reward its gain, cost 1. Two actions, `length` steps."""

    def __init__(self, gains: list[float], length: int, cost: Any = 1.0, reward_of_skip: float = 0.0) -> None:
        self.gains, self.length, self.cost, self.reward_of_skip = gains, length, cost, reward_of_skip
        self.observation_space = spaces.Box(0, 1, (len(gains),), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.item = self._item()
        return np.eye(len(self.gains), dtype=np.float32)[self.item], {}

    def _item(self) -> int:
        return self.t if self.length > 1 else int(self.np_random.integers(len(self.gains)))

    def step(self, action: np.int64) -> Any:
        reward = self.gains[self.item] if action == 1 else self.reward_of_skip
        info = {} if self.cost is None else {"cost": self.cost * int(action == 1)}
        self.t += 1
        done = self.t == self.length
        if not done:
            self.item = self._item()
        return np.eye(len(self.gains), dtype=np.float32)[self.item], float(reward), done, False, info


class Runner(gymnasium.Env[np.ndarray, np.ndarray]):
    """A mass on a line: reward its speed, cost 1 while faster than 0.5; it ends after `length` steps, or never (None).

    Two constraints: the second one costs the force spent. `get_state` tells everything, the generator included.
    """

    observation_space = spaces.Box(-10, 10, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int | None = 7) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.speed = 0, float(self.np_random.uniform(-0.1, 0.1))
        return self._observation(), {}

    def _observation(self) -> np.ndarray:
        return np.array([self.speed, self.t / 10], dtype=np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.speed = 0.9 * self.speed + 0.2 * float(action[0]) + float(self.np_random.normal(0, 0.02))
        self.t += 1
        cost = np.array([self.speed > 0.5, abs(float(action[0]))], dtype=np.float32)
        return self._observation(), self.speed, self.t == self.length, False, {"cost": cost}

    def get_state(self) -> dict[str, Any]:
        return {"t": self.t, "speed": self.speed, "random": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.t, self.speed = state["t"], state["speed"]
        self.np_random.bit_generator.state = state["random"]


@pytest.fixture
def runner() -> type[Runner]:
    return Runner


@pytest.fixture
def bandit() -> type[Bandit]:
    return Bandit


@pytest.fixture
def knapsack() -> type[Knapsack]:
    return Knapsack


@pytest.fixture(scope="session")
def make_table(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OutcomeTable]:
    """Build a table whose question feature tells the type, and whose confidence tells whether the base is right.

    `budgets` paying actions, each a little dearer and better than the one before; with `sure` the six confidence
    features that a build writes, of which the entropy falls and the margin rises where the base is right.
    """

    def build(
        rows: dict[int, int] | None = None,
        retention: bool = True,
        router: bool = False,
        budgets: int = 1,
        sure: bool = False,
        types: bool = True,
        provenance: dict[str, Any] | None = None,
    ) -> OutcomeTable:
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
        if sure:
            confidence = rng.normal(size=(n, 6)) * 0.3
            confidence[:, [0, 2]] += np.where(base, 1.0, -1.0)[:, None] * (-1.0, 1.0)
        widths = {"question": 4, "image": 3, "audio_preview": 2, "confidence": 0 if router else confidence.shape[1]}
        actions = ("skip", "use", *(f"use_{k}" for k in range(1, budgets)))
        header = Header(actions, widths, ("vl",) if retention else (), provenance=provenance or {})
        writer = TableWriter(directory, header)
        more = [use | (rng.random(n) < 0.03 * k) for k in range(1, budgets)]
        tensors: dict[str, np.ndarray] = {
            "question": question.astype(np.float32),
            "image": rng.normal(size=(n, 3)).astype(np.float32),
            "audio_preview": rng.normal(size=(n, 2)).astype(np.float32),
            "confidence": confidence.astype(np.float32),
            "score": np.stack([base, use, *more], axis=1).astype(np.float32),
            "latency_ms": np.stack([np.full(n, 10.0), 15.0 + 10.0 * rng.random(n)], axis=1).astype(np.float32),
            "retention_set": np.where(vl, 0, -1).astype(np.int16),
            "group": (np.arange(n) // 2).astype(np.int64),
            "split": np.repeat(list(rows), list(rows.values())).astype(np.uint8),
        }
        dearer = [tensors["latency_ms"][:, 1] + 2.0 * k for k in range(1, budgets)]
        tensors["latency_ms"] = np.stack([*tensors["latency_ms"].T, *dearer], axis=1).astype(np.float32)
        if router:
            del tensors["confidence"]
        names = np.where(vl, "vl", "audio")
        records = [
            {"id": str(i), "question": "?", "answers": ["a"], "predictions": ["a"] * len(actions)}
            | ({"type": str(names[i])} if types else {})
            for i in range(n)
        ]
        writer.write_part(tensors, records, n)
        writer.finish()
        return OutcomeTable.open(directory)

    return build


@pytest.fixture(scope="session")
def table(make_table: Callable[..., OutcomeTable]) -> OutcomeTable:
    return make_table()


@pytest.fixture(scope="session")
def rows_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OutcomeBatches]:
    """Write given scores [n, A] as the test split of a table (the train split is a copy), and open it.

    Latencies are 10 ms more per action unless given, retention sets -1, every row is a group.
    """

    def build(
        score: Any,
        latency: Any = None,
        retention: Any = None,
        group: Any = None,
        reward: RewardConfig | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> OutcomeBatches:
        score = np.asarray(score, dtype=np.float32)
        n, actions = score.shape
        latency = np.tile(10.0 * np.arange(1, actions + 1), (n, 1)) if latency is None else np.asarray(latency)
        retention = np.full(n, -1) if retention is None else np.asarray(retention)
        group = np.arange(n) if group is None else np.asarray(group)
        sets = tuple(f"set-{k}" for k in range(int(retention.max()) + 1))
        names = ("skip", "use", *(f"use_{k}" for k in range(1, actions - 1)))
        directory = tmp_path_factory.mktemp("rows")
        writer = TableWriter(directory, Header(names, {"question": 1}, sets, provenance=provenance or {}))
        both = {
            "score": score,
            "latency_ms": latency.astype(np.float32),
            "retention_set": retention.astype(np.int16),
            "group": group.astype(np.int64),
            "question": np.arange(n, dtype=np.float32)[:, None],
        }
        tensors = {name: np.concatenate([values, values]) for name, values in both.items()}
        tensors["split"] = np.repeat([0, 3], n).astype(np.uint8)
        records = [{"id": str(i), "question": "?", "answers": ["a"], "type": ""} for i in range(2 * n)]
        writer.write_part(tensors, records, 2 * n)
        writer.finish()
        return OutcomeBatches(OutcomeTable.open(directory).split("test"), reward or RewardConfig())

    return build


@pytest.fixture(scope="session")
def known_table(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., KnownTable]:
    """Draw a table from a problem whose cells the features tell exactly; further options go to `write_known_table`."""

    def build(problem: KnownProblem, rows: dict[str, int] | None = None, **options: Any) -> KnownTable:
        rows = rows or {"train": 4000, "validation": 2000, "test": 500}
        return write_known_table(
            tmp_path_factory.mktemp("known"), problem, rows, **{"useless": 0, "spread": 0.0, **options}
        )

    return build


@pytest.fixture(scope="session")
def eight_cells(known_table: Callable[..., KnownTable]) -> KnownTable:
    """A table of eight cells. Cells 5 and 6 mix retention and audio questions, and a limit of 0.012 lets only 5 in.

    Audio on cell 5 earns 0.058 there and drops retention by 0.0032; on cell 6 it earns 0.06 and drops it by 0.0237.
    """
    share = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.6, 0.6, 0.6])  # of retention questions in every cell
    base, heard = np.full((8, 2), 0.9), np.full((8, 2), 0.9)  # [C, retention or audio]
    base[:, 1], heard[:, 1] = 0.2, [0.8, 0.8, 0.95, 0.8, 0.3, 0.9, 1.0, 0.8]
    base[6, 1] = 0.1
    heard[5:, 0] = [0.88, 0.75, 0.5]  # what a mixed cell's audio spoils
    problem = KnownProblem(np.full(8, 1 / 8), np.stack([share, 1 - share], axis=1), np.stack([base, heard], axis=2))
    return known_table(problem)
