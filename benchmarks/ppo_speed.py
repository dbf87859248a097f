"""How long learning takes: our agents against stable-baselines3's own PPO on the same table and machine, in turn.

    python benchmarks/ppo_speed.py [--table DIR] [--seeds 5] [--steps 100000]

stable-baselines3's PPO (DummyVecEnv of 8 environments, batch 256, 10 epochs, no constraint) is timed only inside
`learn`, on the leanest environment that its interface allows. Ours are timed whole: normalisation, retention rows,
multipliers, curriculum, choice of the policy. The fit of the outcome model, which many agents on one table share,
stands beside them and is added where a line says so. Besides the defaults there is one setting for haste, `QUICK`.

Utility is that of the deterministic policy on the test rows. Without --table the table is drawn from a problem whose
best policy is known (20,000 train rows, 300 features), and utility and drop are expectations under its true means; with
--table they are means over what happened. Prints a table and, as its last line, one JSON object. `ppo_speedup` and
`exact_speedup` compare like with like: our agents learn from single outcomes, as stable-baselines3's PPO does, and need
no outcome model (`smoothing.trees 0`, the exact agent with `QUICK`). The defaults take longer and reach more utility:
`ppo_default_speedup` has a fitted outcome model, `ppo_default_whole_speedup` counts the fit too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import AgentConfig, ExactConfig, SmoothingConfig
from agents.outcome_model import OutcomeModel
from agents.train import train_agent
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import random_problem, write_known_table
from envs.outcomes import OutcomeTable

ROWS = {"train": 20_000, "validation": 4_000, "test": 8_000}
INFORMATIVE, USELESS = 48, 252  # columns
QUICK = AgentConfig(
    agent="exact",
    exact=ExactConfig(hidden=(32,), steps=200, learning_rate=6e-3, judgements=4),
    smoothing=SmoothingConfig(trees=0),
)
QUICK_OPTIONS = (
    "--agent exact --exact.hidden [32] --exact.steps 200 --exact.learning_rate 0.006 --exact.judgements 4 "
    "--smoothing.trees 0"
)
REFERENCE, FIT, PLUS_FIT = "stable-baselines3 PPO", "fit of the outcome model", " + fit"
PPO_LINE, SINGLE_LINE = "PPO", "PPO, smoothing.trees 0"
EXACT_LINE, QUICK_LINE = "exact agent", "exact agent, QUICK"

Judge = Callable[[np.ndarray], tuple[float, float]]
"""Takes actions [n] on the test rows, returns utility and worst drop."""


@dataclass(frozen=True)
class Run:
    """What one run took and gave."""

    seconds: float
    cpu_seconds: float
    utility: float = float("nan")
    drop: float = float("nan")


class RowEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One random row per episode, from arrays in memory."""

    def __init__(self, observations: np.ndarray, reward: np.ndarray) -> None:
        self.rows, self.reward = observations, reward
        self.observation_space = spaces.Box(-10, 10, (observations.shape[1],), np.float32)
        self.action_space = spaces.Discrete(reward.shape[1])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a row."""
        super().reset(seed=seed)
        self.row = int(self.np_random.integers(len(self.rows)))
        return self.rows[self.row], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Look up the reward."""
        return self.rows[self.row], float(self.reward[self.row, action]), True, False, {}


class Stopwatch:
    """Seconds since it was made: of the clock, and of this process."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return both."""
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class Contest:
    """All that runs on one table.

    Args:
        table: with train, validation and test rows.
        judge: of actions on the test rows.
        steps: decisions that PPO learns from.
    """

    def __init__(self, table: OutcomeTable, judge: Judge, steps: int) -> None:
        self.train, self.validation, self.test = (table.split(name) for name in ("train", "validation", "test"))
        self.judge, self.steps = judge, steps
        rows = OutcomeBatches(self.train, RewardConfig())
        held_out = OutcomeBatches(self.test, RewardConfig(), rows.normaliser)
        self.observations, self.reward = rows.flat(np.arange(len(rows))), rows.reward
        self.test_observations = held_out.flat(np.arange(len(held_out)))

    def reference(self, seed: int) -> Run:
        """Let stable-baselines3's PPO learn."""
        env = DummyVecEnv([lambda: RowEnv(self.observations, self.reward)] * 8)
        model = PPO("MlpPolicy", env, n_steps=256, batch_size=256, n_epochs=10, ent_coef=0.01, seed=seed, device="cpu")
        watch = Stopwatch()
        model.learn(self.steps)
        seconds = watch.read()
        actions, _ = model.predict(self.test_observations, deterministic=True)
        return Run(*seconds, *self.judge(np.asarray(actions)))

    def fit(self, config: AgentConfig) -> tuple[Run, OutcomeModel]:
        """Fit the outcome model."""
        rows = OutcomeBatches(self.train, config.reward)
        watch = Stopwatch()
        model = OutcomeModel(rows, config.smoothing)
        return Run(*watch.read()), model

    def ours(self, config: AgentConfig, seed: int, model: OutcomeModel | None) -> Run:
        """Let one of our agents learn."""
        watch = Stopwatch()
        agent = train_agent(
            self.train, self.validation, replace(config, total_timesteps=self.steps), seed, outcome_model=model
        )
        seconds = watch.read()
        return Run(*seconds, *self.judge(agent.policy.decide(self.test.observation(slice(None)))))

    def round(self, seed: int) -> dict[str, Run]:
        """Let all of them learn once."""
        default = AgentConfig()
        found = {REFERENCE: self.reference(seed)}
        found[FIT], model = self.fit(default)
        for line, agent in ((PPO_LINE, default), (EXACT_LINE, replace(default, agent="exact"))):
            run = found[line] = self.ours(agent, seed, model)
            both = (run.seconds + found[FIT].seconds, run.cpu_seconds + found[FIT].cpu_seconds)
            found[line + PLUS_FIT] = Run(*both, run.utility, run.drop)
        found[SINGLE_LINE] = self.ours(replace(default, smoothing=SmoothingConfig(trees=0)), seed, None)
        found[QUICK_LINE] = self.ours(QUICK, seed, None)
        return found


def known_contest(directory: Path, steps: int) -> tuple[Contest, str]:
    """Return the contest on a generated table, and one line on what is possible there."""
    reward, known = RewardConfig(), write_known_table(directory, random_problem(0), ROWS, 0, INFORMATIVE, USELESS)
    best = known.problem.optimum(np.full(known.problem.n_sets, AgentConfig().lagrangian.limit), reward)
    free = known.problem.optimum(np.ones(known.problem.n_sets), reward)

    def judge(actions: np.ndarray) -> tuple[float, float]:
        utility, drop = known.judge("test", np.eye(len(known.table.actions))[actions], reward)
        return utility, float(drop.max())

    possible = (
        f"expected utility: never {best.never:.4f}, best within the limit {best.utility:.4f}, best without a limit "
        f"{free.utility:.4f}"
    )
    return Contest(known.table, judge, steps), possible


def table_contest(directory: Path, steps: int) -> Contest:
    """Return the contest on a table whose true means nobody knows."""
    table = OutcomeTable.open(directory)
    held_out = OutcomeBatches(table.split("test"), RewardConfig())

    def judge(actions: np.ndarray) -> tuple[float, float]:
        taken = np.arange(len(actions))
        cost = held_out.cost[taken, :, actions].mean(axis=0)
        return float(held_out.reward[taken, actions].mean()), float(cost.max(initial=0.0))

    return Contest(table, judge, steps)


def warm_up(contest: Contest) -> None:
    """Import what is imported late, so that no run pays for it."""
    torch.optim.Adam([torch.zeros(1)])
    tiny = AgentConfig(total_timesteps=2000, exact=ExactConfig(steps=2), smoothing=SmoothingConfig(trees=1))
    steps, contest.steps = contest.steps, 2000
    for agent in (tiny, replace(tiny, agent="exact")):
        contest.ours(agent, 0, None)
    contest.steps = steps


def medians(rounds: list[dict[str, Run]]) -> dict[str, Run]:
    """Return the medians of every line."""
    fields = ("seconds", "cpu_seconds", "utility", "drop")
    return {
        line: Run(*(statistics.median(getattr(found[line], field) for found in rounds) for field in fields))
        for line in rounds[0]
    }


def report(found: dict[str, Run]) -> dict[str, float]:
    """Print the table, and return the figures of the last line."""
    reference = found[REFERENCE]
    print(f"{'':28}{'seconds':>9}{'of CPU':>9}{'x faster':>10}{'utility':>9}{'drop':>9}")
    for line, run in found.items():
        quality = f"{run.utility:9.4f}{run.drop:9.4f}" if line != FIT else ""
        faster = f"{reference.seconds / run.seconds:10.1f}" if line != FIT else " " * 10
        print(f"{line:28}{run.seconds:9.2f}{run.cpu_seconds:9.2f}{faster}{quality}")
    print(f"QUICK: {QUICK_OPTIONS}")
    faster_by = {line: round(reference.seconds / run.seconds, 2) for line, run in found.items()}
    return {
        "ppo_speedup": faster_by[SINGLE_LINE],
        "exact_speedup": faster_by[QUICK_LINE],
        "utility_sb3": round(reference.utility, 4),
        "utility_ppo": round(found[SINGLE_LINE].utility, 4),
        "utility_exact": round(found[QUICK_LINE].utility, 4),
        "ppo_default_speedup": faster_by[PPO_LINE],
        "ppo_default_whole_speedup": faster_by[PPO_LINE + PLUS_FIT],
        "utility_ppo_default": round(found[PPO_LINE].utility, 4),
        "exact_default_speedup": faster_by[EXACT_LINE],
        "exact_default_whole_speedup": faster_by[EXACT_LINE + PLUS_FIT],
        "utility_exact_default": round(found[EXACT_LINE].utility, 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, help="an outcome table; none: one is generated")
    parser.add_argument("--steps", type=int, default=100_000, help="decisions that PPO learns from")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each; medians are reported")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; small networks are fastest with one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        possible = None
        if options.table is None:
            contest, possible = known_contest(Path(folder) / "table", options.steps)
        else:
            contest = table_contest(options.table, options.steps)
        warm_up(contest)
        found = medians([contest.round(seed) for seed in range(options.seeds)])
        print(f"{options.steps} PPO steps, {len(contest.train)} train rows, medians of {options.seeds} seeds")
        figures = report(found)
    if possible is not None:
        print(possible)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
