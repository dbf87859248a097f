"""The same study, whoever runs it: at once or in parts, alone or with others, killed or interrupted on the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from safe_rl.tune import main
from safe_rl.tuning import trials

Options = Callable[..., list[str]]
Stored = Callable[..., list[optuna.trial.FrozenTrial]]
Results = Callable[..., list[tuple[Any, ...]]]
FEW = ["--tune.trials", "5"]
"""For studies that are compared with the first trials of the finished one."""


def test_a_study_that_grows_is_the_study_that_was_large_at_once(
    options: Options, results: Results, finished_study: Path, table: Path, tmp_path: Path
) -> None:
    for total in ("2", "5"):
        assert main([*options(table, tmp_path / "run"), "--tune.trials", total]) == 0
    assert results(tmp_path / "run") == results(finished_study)[:5]


def test_the_same_command_again_runs_nothing_and_writes_the_same(
    options: Options, finished_study: Path, table: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished_study, again)
    before = (again / "tune" / "journal.log").read_bytes()
    assert main(options(table, again)) == 0
    assert (again / "tune" / "journal.log").read_bytes() == before
    assert (again / "tune" / "trials.csv").read_bytes() == (finished_study / "tune" / "trials.csv").read_bytes()


def start(argv: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "safe_rl.tune", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(ready: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not ready():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_two_commands_of_which_one_is_killed_make_the_same_study(
    options: Options, results: Results, finished_study: Path, table: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.log"
    more = ["--tune.storage", str(journal), *FEW]
    with start(options(table, tmp_path / "one", *more)) as one, start(options(table, tmp_path / "two", *more)) as two:

        def both_run() -> bool:  # each owns a trial and has reported on it
            text = journal.read_text() if journal.exists() else ""
            return text.count('"owner":{') >= 2 and text.count('"step":') >= 4

        wait_for(both_run, one, two)
        two.send_signal(signal.SIGKILL)
        out, err = one.communicate(timeout=300)
        two.communicate()
    assert one.returncode == 0, err
    assert two.returncode == -signal.SIGKILL
    shutil.copy(journal, tmp_path / "one" / "tune" / "journal.log")
    assert results(tmp_path / "one") == results(finished_study)[:5]
    assert "best.yaml" in out


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker_and_the_same_command_goes_on(
    options: Options, stored: Stored, results: Results, finished_study: Path, table: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    journal = broken / "tune" / "journal.log"
    with start(options(table, broken, *FEW, workers=2)) as process:
        wait_for(lambda: journal.exists() and journal.read_text().count('"step":') >= 4, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == (
        f"Interrupted. What is finished is kept in {broken}; the same command goes on."
    )
    size = journal.stat().st_size
    assert {trial.state.name for trial in stored(broken)} <= {"COMPLETE", "PRUNED", "WAITING"}
    time.sleep(0.5)
    assert journal.stat().st_size == size  # nobody writes any more
    assert main(options(table, broken, *FEW)) == 0
    assert results(broken) == results(finished_study)[:5]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_by_the_others(
    options: Options, results: Results, finished_study: Path, table: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    journal = run / "tune" / "journal.log"
    with start(options(table, run, *FEW, workers=2)) as process:

        def owners() -> list[int]:
            text = journal.read_text() if journal.exists() else ""
            found = [
                json.loads(line).get("user_attr", {}).get("owner") for line in text.splitlines() if "owner" in line
            ]
            return [owner["pid"] for owner in found if owner]

        wait_for(lambda: bool(owners()), process)
        subprocess.run(["kill", "-9", str(owners()[0])], check=True)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "warning: a worker was killed (signal 9); another took over its trial." in err
    assert results(run) == results(finished_study)[:5]


def test_a_database_serves_as_well_as_the_journal(
    options: Options, results: Results, finished_study: Path, table: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    assert main([*options(table, tmp_path / "run", "--tune.storage", url), "--tune.trials", "2"]) == 0
    assert results(tmp_path, url) == results(finished_study)[:2]
    assert not (tmp_path / "run" / "tune" / "journal.log").exists()


def test_a_mistake_in_a_trial_fails_the_run_and_the_trial_waits(
    options: Options,
    stored: Stored,
    results: Results,
    finished_study: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, calls = trials.train_one, iter(range(100))

    def mistaken(*arguments: Any) -> Any:
        if next(calls) == 3:  # the second policy of trial 1
            raise KeyError("a mistake")
        return train(*arguments)

    monkeypatch.setattr(trials, "train_one", mistaken)
    argv = [*options(table, tmp_path / "run"), "--tune.trials", "3"]
    with pytest.raises(KeyError, match="a mistake"):
        main(argv)
    assert [trial.state.name for trial in stored(tmp_path / "run")] == ["COMPLETE", "WAITING"]
    assert main(argv) == 0
    assert results(tmp_path / "run") == results(finished_study)[:3]
