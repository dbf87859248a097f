from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("delay", [0.15, 0.3, 0.5, 1.0])
def test_ctrl_c_while_a_command_starts_is_one_line(tmp_path: Path, delay: float) -> None:
    command = [sys.executable, "-m", "safe_rl.train_policy", "--table", str(tmp_path / "none"), "--run_dir", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    # Before its first import the interpreter is not ours; it may then say in its own words that it was interrupted.
    if "safe_rl" in told:
        assert "Traceback" not in told, told


def test_blas_threads_are_limited_unless_the_user_says_otherwise() -> None:
    show = "import safe_rl, os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    for given, expected in ((environment, "1"), (environment | {"OPENBLAS_NUM_THREADS": "3"}, "3")):
        shown = subprocess.run([sys.executable, "-c", show], env=given, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == expected


def test_importing_the_package_as_a_library_leaves_the_exception_hook_alone() -> None:
    show = "import sys; before = sys.excepthook; import safe_rl; print(sys.excepthook is before)"
    shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "True"
