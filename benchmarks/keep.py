"""Run a benchmark and keep its last line, one JSON object, in `results/`, with the command and what it ran on.

    python benchmarks/keep.py benchmarks/ppo_speed.py --seeds 5
    python benchmarks/keep.py --name gsm8k examples/gsm8k/evaluate.py --responses two_arm_responses.csv

Called from the root of the repository. A run that fails, or whose last line is no JSON object, keeps nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from safe_rl.run_folder import versions
from supervised.files import write_json

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run and keep; return the benchmark's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", help="of the file in results; none: that of the script")
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    options = parser.parse_args()
    start = time.perf_counter()
    command = [str(options.script), *options.arguments]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    print(done.stdout, end="")
    if done.returncode:
        return done.returncode
    try:
        figures = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError:
        figures = None
    if not isinstance(figures, dict):
        print("error: the last line is no JSON object; nothing is kept.", file=sys.stderr)
        return 1
    place = RESULTS / f"{options.name or options.script.stem}.json"
    kept = {
        "command": " ".join(["python", *command]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),  # of the last 15 minutes: processes that wanted a core, ours included
        "seconds": round(seconds, 1),
        "versions": versions(),
        "figures": figures,
    }
    write_json(place, kept)
    print(f"Kept in {place}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
