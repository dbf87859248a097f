"""What benchmarks measured is kept: a file in results for every one that has some, and a line in the list."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
HELPERS = {"keep", "random_llava"}


def test_every_benchmark_and_every_kept_result_is_listed() -> None:
    listed = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - HELPERS
    assert len(scripts) >= 11
    for name in scripts:
        assert f"`{name}.py`" in listed
    results = {path.name for path in (BENCHMARKS / "results").iterdir()}
    assert len(results) >= 6
    for name in results:
        assert name in listed
    assert set(re.findall(r"`(\w+\.json)`", listed)) <= results


def test_every_kept_line_stands_with_its_command() -> None:
    kept = [path for path in (BENCHMARKS / "results").glob("*.json") if path.stem != "omnisafe"]
    assert len(kept) >= 4
    for path in kept:
        value = json.loads(path.read_text(encoding="utf-8"))
        script = value["command"].split()[1]
        assert (ROOT / script).is_file()
        assert value["figures"]
        assert value["versions"]["torch"]


def test_a_run_without_a_last_line_of_json_keeps_nothing(tmp_path: Path) -> None:
    script = tmp_path / "talks.py"
    script.write_text("print('a table')\n")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "keep.py"), str(script)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert "the last line is no JSON object; nothing is kept" in done.stderr
    assert not (BENCHMARKS / "results" / "talks.json").exists()
