"""A real build, with a model, killed by SIGKILL while it works: the next one goes on and the table is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.build import build_table
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from supervised.data.manifest import read_manifest

CONFIG = OutcomesConfig(batch_size=2, rows_per_part=3, exact_samples=2)
BUILD = """
import sys
from pathlib import Path
from envs.build import build_table
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from supervised.data.manifest import read_manifest
from supervised.safe_model import SafeModel
model = SafeModel.from_pretrained(sys.argv[1])
config = OutcomesConfig(batch_size=2, rows_per_part=3, exact_samples=2)
profile = LatencyProfile.load(sys.argv[4])
build_table(model, {"train": read_manifest(Path(sys.argv[2]))}, config, sys.argv[3], profile=profile)
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_and_the_table_is_that_of_an_unbroken_one(
    tiny_model: Any, sixty: Path, tmp_path: Path
) -> None:
    profile = LatencyProfile(1.0, 2.0, 0.5, 3.0, 0.25, 1.5, 20.0, 12.0, 0.125, 20.0, 4.0, 0.25)
    profile.save(tmp_path / "profile.json")
    tiny_model.save_pretrained(tmp_path / "adapter")
    folder = tmp_path / "killed"

    def parts() -> int:
        header = folder / "table.json"
        return len(json.loads(header.read_text())["parts"]) if header.exists() else 0

    arguments = [tmp_path / "adapter", sixty, folder, tmp_path / "profile.json"]
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, *map(str, arguments)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while parts() < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= parts() < 20

    samples = {"train": read_manifest(sixty)}
    done: list[int] = []
    table = build_table(tiny_model, samples, CONFIG, folder, lambda count, _: done.append(count), profile=profile)
    assert done[0] > 9  # three parts of three rows were not built again
    expected = build_table(tiny_model, samples, CONFIG, tmp_path / "whole", profile=profile)
    assert [table.record(row) for row in range(len(table))] == [expected.record(row) for row in range(60)]
    for name in ("score", "latency_ms", "group"):
        np.testing.assert_array_equal(getattr(table.split("train"), name), getattr(expected.split("train"), name))
