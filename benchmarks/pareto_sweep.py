"""How long a whole accuracy-latency curve takes: nine alphas x five seeds, with PPO and with the exact agent.

    python benchmarks/pareto_sweep.py [--table DIR] [--seeds 5] [--workers 2]

Both are timed as a user would run them, `python -m safe_rl.pareto` from its start to its last picture: importing,
opening the table, fitting the outcome model, training, certificates, judging, drawing. PPO trains a policy for every
alpha and seed, the exact agent one network per seed. Without --table a table with 10,000 train rows is generated.
Seconds of CPU, of all processes of a sweep together, tell what it takes where other work shares the cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from envs.known_optimum import random_problem, write_known_table

ROWS = {"train": 10_000, "validation": 4_000, "calibration": 4_000, "test": 4_000}


def cpu_seconds() -> float:
    """Return the seconds of CPU of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sweep(agent: str, table: Path, run_dir: Path, seeds: int, workers: int) -> tuple[float, float, float]:
    """Return the seconds of a sweep, those of CPU, and the mean utility of its policies over the alphas."""
    options = {"agent": agent, "table": table, "run_dir": run_dir, "pareto.seeds": seeds, "pareto.workers": workers}
    command = [sys.executable, "-m", "safe_rl.pareto"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    start, cpu = time.perf_counter(), cpu_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    place, key = ("pareto", "ppo_lagrangian") if agent == "ppo" else ("pareto_exact", "exact_gradient")
    points = json.loads((run_dir / place / "metrics.json").read_text(encoding="utf-8"))["points"]
    return seconds, cpu, sum(point["policies"][key]["utility"]["mean"] for point in points) / len(points)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="an outcome table; none: one is generated")
    parser.add_argument("--seeds", type=int, default=5, help="policies per alpha")
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    options = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = options.table
        if table is None:
            table = Path(folder) / "table"
            write_known_table(table, random_problem(0), ROWS, useless=250)
        for agent in ("exact", "ppo"):
            seconds, cpu, utility = sweep(agent, table, Path(folder) / "run", options.seeds, options.workers)
            print(f"{agent:6} {seconds:7.1f} s, {cpu:7.1f} s of CPU, mean utility over the alphas {utility:.4f}")
            figures = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "utility": round(utility, 4)}
            found |= {f"{agent}_{name}": figure for name, figure in figures.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
