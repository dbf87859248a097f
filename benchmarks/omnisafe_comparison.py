"""Return and cost at equal steps: `PPOLagrangian` and OmniSafe's PPOLag on one continuous-control problem, 5 seeds.

    python benchmarks/omnisafe_comparison.py --omnisafe-python PATH/bin/python

OmniSafe 0.5.0 pins versions that no current environment has (gymnasium 0.28.1, pandas 2.0.3), so it lives in its own:

    python3.10 -m venv PATH
    PATH/bin/pip install omnisafe==0.5.0 'torch<1.13' 'numpy<2' 'setuptools<81' 'moviepy<2'

The problem is a point mass in the plane: reward is how far it came in x (half its speed), cost is 1 for every step
faster than 1, an episode has 100 steps, and the mean cost of an episode shall be at most 25. A step earns at most 1,
without cost at most 0.5, so no policy within the limit earns more than 75 * 0.5 + 25 = 62.5 (and what the noise of the
motion lends, at most 0.1 a step).
Each library sees it through its own interface, trains in a process of its own, and every episode is noted by the same
code. Widths, steps, steps of a rollout, discounts and limit are equal. The rest are the defaults of OmniSafe, once as
they are and once with a multiplier that moves about three times as fast (lambda_lr 0.1 for 0.035), since a rollout of
500 steps is short for them; and for `PPOLagrangian` those of stable-baselines3's PPO with a PID multiplier.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, LIMIT, FAST = 100, 25.0, 1.0
ROLLOUT, COPIES = 500, 5
WINDOW = 2_000  # steps that one figure averages over: 20 episodes
BOUND = 62.5
OMNISAFE: dict[str, dict[str, float]] = {"omnisafe": {}, "omnisafe_faster": {"lambda_lr": 0.1}}
NAMES = {
    "ours": "PPOLagrangian",
    "omnisafe": "OmniSafe PPOLag, its defaults",
    "omnisafe_faster": "OmniSafe PPOLag, lambda_lr 0.1",
}
RESULTS = Path(__file__).parent / "results"


class PointMass:
    """The motion: velocity [2] in, force [2] in [-1, 1]; notes return and cost of every finished episode."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.episodes: list[tuple[float, float]] = []

    def reset(self) -> np.ndarray:
        """Stand still."""
        self.velocity, self.time, self.earned, self.paid = np.zeros(2), 0, 0.0, 0.0
        return self.observation()

    def observation(self) -> np.ndarray:
        """Return velocity and share of the episode that is over, float32 [3]."""
        return np.array([*self.velocity, self.time / LENGTH], dtype=np.float32)

    def step(self, force: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
        """Return observation, reward, cost and whether the episode is over."""
        push = 0.2 * np.clip(force, -1.0, 1.0)
        self.velocity = 0.9 * self.velocity + push + 0.02 * self.rng.uniform(-1.0, 1.0, 2)
        reward, cost = 0.5 * float(self.velocity[0]), float(np.linalg.norm(self.velocity) > FAST)
        self.time, self.earned, self.paid = self.time + 1, self.earned + reward, self.paid + cost
        if self.time == LENGTH:
            self.episodes.append((self.earned, self.paid))
        return self.observation(), reward, cost, self.time == LENGTH


def train_ours(seed: int, steps: int) -> list[PointMass]:
    """Train `PPOLagrangian`; returns the point masses with what they noted."""
    import gymnasium
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import DummyVecEnv

    from agents.config import LagrangianConfig, PPOConfig
    from agents.ppo_lagrangian import PPOLagrangian

    torch.set_num_threads(1)
    masses: list[PointMass] = []

    class PointMassEnv(gymnasium.Env[np.ndarray, np.ndarray]):
        observation_space = spaces.Box(-3, 3, (3,), np.float32)
        action_space = spaces.Box(-1, 1, (2,), np.float32)

        def __init__(self) -> None:
            self.mass = PointMass(1_000 * seed + len(masses))
            masses.append(self.mass)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            return self.mass.reset(), {}

        def step(self, action: np.ndarray) -> Any:
            observation, reward, cost, over = self.mass.step(action)
            return observation, reward, over, False, {"cost": cost}

    ppo = PPOConfig(
        num_envs=COPIES,
        n_steps=ROLLOUT // COPIES,
        batch_size=50,
        n_epochs=10,
        hidden=(64, 64),
        critic_hidden=(64, 64),
        activation="tanh",
        learning_rate=3e-4,
        final_learning_rate=3e-4,
        entropy_coefficient=0.0,
    )
    lagrangian = LagrangianConfig(limit=LIMIT, update="pid", lr=0.01)
    PPOLagrangian("MlpPolicy", DummyVecEnv([PointMassEnv] * COPIES), ppo, lagrangian, seed=seed).learn(steps)
    return masses


def train_omnisafe(seed: int, steps: int, multiplier: dict[str, float]) -> list[PointMass]:
    """Train OmniSafe's PPOLag, with changes of its multiplier's defaults; returns the point mass with what it noted."""
    import omnisafe
    import torch
    from gymnasium import spaces
    from omnisafe.envs.core import CMDP, env_register

    masses: list[PointMass] = []

    class PointMassCmdp(CMDP):
        _support_envs = ["PointMass-v0"]  # noqa: RUF012  # as OmniSafe's own environments
        _observation_space = spaces.Box(-3, 3, (3,), np.float32)
        _action_space = spaces.Box(-1, 1, (2,), np.float32)
        need_auto_reset_wrapper, need_time_limit_wrapper, _num_envs = True, False, 1
        max_episode_steps = LENGTH

        def __init__(self, env_id: str, **_: Any) -> None:
            super().__init__(env_id)
            self.mass = PointMass(1_000 * seed)
            masses.append(self.mass)

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return torch.as_tensor(self.mass.reset()), {}

        def step(self, action: Any) -> Any:
            observation, reward, cost, over = self.mass.step(action.detach().cpu().numpy())
            numbers = (torch.as_tensor(value, dtype=torch.float32) for value in (reward, cost))
            return torch.as_tensor(observation), *numbers, torch.as_tensor(over), torch.as_tensor(False), {}

        def set_seed(self, seed: int) -> None:
            pass

        def render(self) -> Any:
            return None

        def close(self) -> None:
            pass

    env_register(PointMassCmdp)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "seed": seed,
            "train_cfgs": {"total_steps": steps, "vector_env_nums": 1, "torch_threads": 1},
            "algo_cfgs": {"steps_per_epoch": ROLLOUT},
            "lagrange_cfgs": {"cost_limit": LIMIT, **multiplier},
            "logger_cfgs": {"use_wandb": False, "use_tensorboard": False, "log_dir": folder},
        }
        omnisafe.Agent("PPOLag", "PointMass-v0", custom_cfgs=settings).learn()
    return masses


def train(library: str, seed: int, steps: int, result: Path) -> None:
    """Train one seed of one library in this process and write what its episodes earned and paid."""
    start = time.perf_counter()
    masses = train_ours(seed, steps) if library == "ours" else train_omnisafe(seed, steps, OMNISAFE[library])
    seconds = time.perf_counter() - start
    noted = [mass.episodes for mass in masses if mass.episodes]
    length = min(len(episodes) for episodes in noted)
    together = np.array([[episodes[i] for episodes in noted] for i in range(length)]).reshape(-1, 2)
    told = {"seconds": seconds, "versions": versions(library), "episodes": together.tolist()}
    result.write_text(json.dumps(told))


def versions(library: str) -> str:
    """Return the versions that this process trains with."""
    packages = ("stable-baselines3", "torch", "numpy") if library == "ours" else ("omnisafe", "torch", "numpy")
    told = [f"{package} {metadata.version(package)}" for package in packages]
    return ", ".join([*told, f"Python {platform.python_version()}"])


def figures(runs: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """Return mean and standard deviation over seeds of return and cost in the window that ends at `step`."""
    found: dict[str, Any] = {"step": step}
    for column, name in enumerate(("return", "cost")):
        means = []
        for run in runs:
            episodes = np.array(run["episodes"])[(step - WINDOW) // LENGTH : step // LENGTH]
            means.append(float(episodes[:, column].mean()))
        found[name] = {"mean": statistics.mean(means), "sd": statistics.stdev(means), "seeds": means}
    return found


def table(summary: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    steps = [at["step"] for at in summary["ours"]["at"]]
    head = "".join(f" return at {step:,} steps | cost |" for step in steps)
    lines = [f"| |{head} seconds |", "|---|" + "---|" * (2 * len(steps) + 1)]
    for library, name in NAMES.items():
        figures = [at[column] for at in summary[library]["at"] for column in ("return", "cost")]
        cells = [f"{figure['mean']:.1f} ± {figure['sd']:.1f}" for figure in figures]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {summary[library]['median_seconds']:.0f} |")
    return "\n".join(lines)


def report(summary: dict[str, Any]) -> str:
    """Return the whole page."""
    return (
        "# PPOLagrangian and OmniSafe's PPOLag at equal steps\n\n"
        f"A point mass in the plane: return is the way made in x, cost the number of steps faster than {FAST:g}, the "
        f"limit {summary['limit']:g} of {LENGTH} steps. No policy within it earns more than {summary['bound']:g}. "
        f"Mean ± standard deviation over {summary['seeds']} seeds of the episodes of the last {WINDOW:,} training "
        f"steps; seconds are the median of one training, one thread, on a processor shared with other work. All "
        f"{len(NAMES) * summary['seeds']} trainings are of one call of the command, {summary['jobs']} at a time, each "
        f"in a process of its own: PPOLagrangian with {summary['versions']['ours']}, PPOLag with "
        f"{summary['versions']['omnisafe']}. Problem, settings and command stand at the top of "
        f"`benchmarks/omnisafe_comparison.py`.\n\n{table(summary)}\n"
    )


def main() -> None:
    """Train both on every seed and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--omnisafe-python", type=Path, help="the interpreter of an environment with OmniSafe 0.5.0")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--train", choices=tuple(NAMES), help="train one seed in this process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.seed, options.steps, options.result)
        return
    if options.omnisafe_python is None:
        parser.error("--omnisafe-python is missing; see the top of this file for how to make that environment")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:

        def run(task: tuple[str, int]) -> dict[str, Any]:
            library, seed = task
            result = Path(folder) / f"{library}-{seed}.json"
            python = sys.executable if library == "ours" else options.omnisafe_python
            arguments = ["--train", library, "--seed", seed, "--steps", options.steps, "--result", result]
            command = [str(part) for part in (python, __file__, *arguments)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found: dict[str, Any] = json.loads(result.read_text())
            print(f"{NAMES[library]}, seed {seed}: {found['seconds']:.0f} s", flush=True)
            return found

        tasks = [(library, seed) for seed in range(options.seeds) for library in NAMES]
        results = list(pool.map(run, tasks))
    runs = {library: results[i :: len(NAMES)] for i, library in enumerate(NAMES)}
    steps = [options.steps // 4, options.steps // 2, options.steps]
    summary: dict[str, Any] = {
        "bound": BOUND,
        "limit": LIMIT,
        "steps": options.steps,
        "seeds": options.seeds,
        "jobs": options.jobs,
        "versions": {"ours": results[0]["versions"], "omnisafe": results[1]["versions"]},
    }
    for library, of_library in runs.items():
        seconds = statistics.median(run["seconds"] for run in of_library)
        summary[library] = {"at": [figures(of_library, step) for step in steps], "median_seconds": seconds}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "omnisafe.json").write_text(json.dumps(summary, indent=2) + "\n")
    (RESULTS / "omnisafe.md").write_text(report(summary))
    print(table(summary))


if __name__ == "__main__":
    main()
