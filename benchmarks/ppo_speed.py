"""How long 100,000 decisions take: `train_agent` against stable-baselines3's own PPO on the same table and machine.

    python benchmarks/ppo_speed.py [--table DIR] [--seeds 3] [--steps 100000]

Ours is timed whole (environment, normalisation, retention buffer, curriculum, multiplier, choice of the policy);
stable-baselines3's PPO (DummyVecEnv of 8 environments, batch 256, 10 epochs, no constraint) only inside `learn`, on the
leanest environment that its interface allows. Utility is the mean reward of the deterministic policy on the test rows.
Without --table a table of 10,000 train rows with 300 features is generated, whose best possible utility is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import AgentConfig
from agents.train import train_agent
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable
from envs.table_format import Header
from envs.table_writer import TableWriter

WIDTHS = {"question": 128, "image": 128, "audio_preview": 36, "confidence": 8}  # 300 in all


class RowEnv(gymnasium.Env[np.ndarray, int]):
    """One random row per episode, from arrays in memory."""

    def __init__(self, observations: np.ndarray, reward: np.ndarray) -> None:
        self.rows, self.reward = observations, reward
        self.observation_space = spaces.Box(-10, 10, (observations.shape[1],), np.float32)
        self.action_space = spaces.Discrete(reward.shape[1])  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a row."""
        super().reset(seed=seed)
        self.row = int(self.np_random.integers(len(self.rows)))
        return self.rows[self.row], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Look up the reward."""
        return self.rows[self.row], float(self.reward[self.row, action]), True, False, {}


def generate(directory: Path, seed: int = 0) -> np.ndarray:
    """Write a table and return the expected score of every action on its test rows, [n, 2].

    Three kinds of question: retention (55 %), and audio questions that the picture answers or not and whose sound is
    clear or drowned. What decides is spread over the features under noise.
    """
    rng = np.random.default_rng(seed)
    sizes = {0: 10_000, 1: 4_000, 3: 4_000}
    n = sum(sizes.values())
    retention, guessable, clear = rng.random(n) < 0.55, rng.random(n) < 0.4, rng.random(n) < 0.75
    skip = np.where(retention, 0.97, np.where(guessable, 0.85, 0.3))
    use = np.where(retention, 0.94, np.where(clear, 0.93, 0.95 * skip))
    score = (rng.random((n, 2)) < np.stack([skip, use], axis=1)).astype(np.float32)
    facts = np.stack([retention, guessable, clear, skip > 0.5], axis=1) - 0.5  # [n, 4]
    features = {}
    for (name, width), fact in zip(WIDTHS.items(), facts.T, strict=True):
        direction = rng.standard_normal(width)
        direction *= 5.0 / np.linalg.norm(direction)
        features[name] = (rng.standard_normal((n, width)) + fact[:, None] * direction).astype(np.float16)
    writer = TableWriter(directory, Header(("skip", "use"), WIDTHS, ("generated",)))
    columns: dict[str, np.ndarray] = {
        "score": score,
        "latency_ms": np.stack([np.full(n, 10.0), 15.0 + 10.0 * rng.random(n)], axis=1).astype(np.float32),
        "retention_set": np.where(retention, 0, -1).astype(np.int16),
        "group": np.arange(n, dtype=np.int64),
        "split": np.repeat(list(sizes), list(sizes.values())).astype(np.uint8),
    }
    records = [{"id": str(i), "question": "", "answers": [], "type": "", "predictions": ["", ""]} for i in range(n)]
    writer.write_part({**features, **columns}, records, n)
    writer.finish()
    return np.stack([skip, use], axis=1)[-sizes[3] :]


def utility(reward: np.ndarray, actions: np.ndarray) -> float:
    """Return the mean reward of actions [n]."""
    return float(reward[np.arange(len(actions)), actions].mean())


def measure(table: OutcomeTable, steps: int, seeds: int) -> dict[str, list[float]]:
    """Train both on every seed, in turn, and return seconds, utilities and drops."""
    reward = RewardConfig()
    config = AgentConfig(reward=reward, total_timesteps=steps)
    train, test = table.split("train"), table.split("test")
    rows, held_out = OutcomeBatches(train, reward), OutcomeBatches(test, reward)
    flat = np.concatenate(list(rows.observe(np.arange(len(rows))).values()), axis=1)
    flat_test = np.concatenate(list(held_out.observe(np.arange(len(held_out))).values()), axis=1)
    torch.optim.Adam([torch.zeros(1)])  # the first optimiser of a process imports for a second or two
    found: dict[str, list[float]] = {name: [] for name in ("seconds", "utility", "drop", "seconds_sb3", "utility_sb3")}
    for seed in range(seeds):
        start = time.perf_counter()
        agent = train_agent(train, table.split("validation"), config, seed)
        found["seconds"].append(time.perf_counter() - start)
        actions = agent.policy.decide(test.observation(slice(None)))
        found["utility"].append(utility(held_out.reward, actions))
        found["drop"].append(float(held_out.cost[np.arange(len(actions)), :, actions].mean(axis=0).max(initial=0.0)))
        env = DummyVecEnv([lambda: RowEnv(flat, rows.reward)] * 8)
        reference = PPO(
            "MlpPolicy", env, n_steps=256, batch_size=256, n_epochs=10, ent_coef=0.01, seed=seed, device="cpu"
        )
        start = time.perf_counter()
        reference.learn(steps)
        found["seconds_sb3"].append(time.perf_counter() - start)
        actions, _ = reference.predict(flat_test, deterministic=True)
        found["utility_sb3"].append(utility(held_out.reward, np.asarray(actions)))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="an outcome table; none: one is generated")
    parser.add_argument("--steps", type=int, default=100_000, help="decisions to learn from")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each; medians are reported")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; small networks are fastest with one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        best = None
        if options.table is None:
            expected = generate(Path(folder) / "table")
            table = OutcomeTable.open(Path(folder) / "table")
            terms = OutcomeBatches(table.split("test"), RewardConfig())
            best = float((terms.reward - terms.split.score + expected).max(axis=1).mean())
        else:
            table = OutcomeTable.open(options.table)
        found = measure(table, options.steps, options.seeds)
    median = {name: statistics.median(values) for name, values in found.items()}
    speedup = median["seconds_sb3"] / median["seconds"]
    print(f"{options.steps} steps, {len(table.split('train'))} train rows, median of {options.seeds} seeds")
    print(f"{'':34}{'seconds':>9}{'steps/s':>9}{'utility':>9}{'drop':>9}")
    for name, ending, drop in (
        ("train_agent (PPOLagrangian)", "", f"{median['drop']:9.4f}"),
        ("stable-baselines3 PPO, 8 x DummyVecEnv", "_sb3", "        -"),
    ):
        seconds = median["seconds" + ending]
        print(f"{name[:34]:34}{seconds:9.1f}{options.steps / seconds:9.0f}{median['utility' + ending]:9.4f}{drop}")
    if best is not None:
        print(f"best possible utility, outcomes unknown: {best:.4f}")
    print(
        json.dumps(
            {
                "ppo_speedup": round(speedup, 2),
                "utility_sb3": round(median["utility_sb3"], 4),
                "utility_ppo": round(median["utility"], 4),
                "seconds": round(median["seconds"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
