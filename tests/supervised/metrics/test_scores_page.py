"""What the page on metrics says about scores of answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from supervised.answers import METRICS

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_names_every_metric() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Scores of answers")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) >= set(METRICS)


def test_the_pages_python_runs() -> None:
    pytest.importorskip("pycocoevalcap")
    section = PAGE.read_text(encoding="utf-8").partition("## Scores of answers")[2]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    told = ran.stdout.splitlines()
    assert told[0] == "0.0 0.5 {'Audio': 1.0, 'Visual': 0.0}"
    assert told[1] == "{'Audio/Counting': 0.3, 'Visual/Location': 1.0}"
    assert told[-1] == "{1: 0.5, 2: 1.0}"
