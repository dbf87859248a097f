"""Memory and time of training on a table of 2,000,000 rows against one of 20,000 of the same kind.

    python benchmarks/table_scale.py [--agent exact] [--rows 20000 2000000] [--columns 48] [--repeats 3]

Each table is trained on in fresh processes, in turn. Resident memory is what the system counts for the process at its
highest (VmHWM): its own memory, and those pages of the mapped files that it has touched and not given back; pages that
only the system caches are not the process's. A step is a decision of PPO, or a gradient step of the exact agent; its
time is that between the first and the last rollout (or judgement), the judging of policies included. What happens once,
beforehand, stands beside it: opening, which reads every byte for its checksum, and preparing (normaliser, forest of the
outcomes, multipliers). Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELD_OUT = {"validation": 0.5, "calibration": 0.05, "test": 0.05}
"""Rows of the other splits for every train row: they grow with the table, as those of a user do."""


def write(directory: Path, rows: int, columns: int) -> None:
    """Write a table with a known optimum: float16 features, three quarters of them informative."""
    from envs.known_optimum import random_problem, write_known_table

    useless = columns // 4
    sizes = {"train": rows, **{split: int(rows * share) for split, share in HELD_OUT.items()}}
    write_known_table(directory, random_problem(0), sizes, informative=columns - useless, useless=useless)


def train(directory: str, agent: str, seed: int) -> dict[str, float]:
    """Open the table, train on it, and return seconds and megabytes; called in a process of its own."""
    import torch

    from agents.config import AgentConfig
    from agents.train import train_agent
    from envs.outcomes import OutcomeTable

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # the first optimiser of a process imports for a second or two
    if agent == "exact":
        import agents.exact
    else:
        import agents.train_ppo  # noqa: F401
    before = memory()
    start = time.perf_counter()
    table = OutcomeTable.open(directory)
    opened = time.perf_counter()
    marks: list[tuple[int, float]] = []
    trained = train_agent(
        table.split("train"),
        table.split("validation"),
        AgentConfig(agent="exact" if agent == "exact" else "ppo"),
        seed,
        progress=lambda step, entry: marks.append((step, time.perf_counter())),
    )
    (first, began), (last, ended) = marks[0], marks[-1]
    after = memory()
    return {
        "opening_s": opened - start,
        "preparing_s": began - opened,
        "training_s": ended - began,
        "step_us": (ended - began) / (last - first) * 1e6,
        "peak_mb": after["VmHWM"],
        "own_mb": after["RssAnon"],
        "files_mb": after["RssFile"],
        "imports_mb": before["VmRSS"],
        "utility": trained.selected.utility,
    }


def memory() -> dict[str, float]:
    """Return what the system counts for this process, in MB: peak, and at present own memory and pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def measure(directory: Path, agent: str, seed: int) -> dict[str, float]:
    """Train in a fresh process."""
    command = [sys.executable, __file__, "--child", str(directory), "--agent", agent, "--seed", str(seed)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: float(value) for name, value in json.loads(lines[-1]).items()}


def main() -> None:
    """Write the tables, train on each, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=(20_000, 2_000_000), help="train rows of the two tables")
    parser.add_argument("--columns", type=int, default=48, help="width of the features in all")
    parser.add_argument("--agent", choices=("ppo", "exact"), default="ppo", help="who learns")
    parser.add_argument("--repeats", type=int, default=3, help="trainings on each table; medians are reported")
    parser.add_argument("--folder", type=Path, help="where the tables are written, and kept; none: a temporary folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.child, options.agent, options.seed)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        places = [folder / f"{rows}x{options.columns}" for rows in options.rows]
        for place, rows in zip(places, options.rows, strict=True):
            if not (place / "table.json").is_file():
                write(place, rows, options.columns)
        size = sum(path.stat().st_size for path in places[1].glob("*.safetensors")) / 2**20
        found = [[measure(place, options.agent, seed) for place in places] for seed in range(1, options.repeats + 1)]
    small, large = (
        {name: statistics.median(pair[k][name] for pair in found) for name in found[0][k]} for k in range(2)
    )
    print(
        f"{options.agent}, {options.columns} columns, tensors of the large table {size:.0f} MB, median of {len(found)}"
    )
    print(f"{'':<16}{options.rows[0]:>12,}{options.rows[1]:>12,}")
    for name in small:
        print(f"{name:<16}{small[name]:>12.3f}{large[name]:>12.3f}")
    print(
        json.dumps(
            {
                "rss_growth_mb": round(large["peak_mb"] - small["peak_mb"], 1),
                "step_time_ratio": round(statistics.median(b["step_us"] / a["step_us"] for a, b in found), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
