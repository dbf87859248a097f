"""A journal survives what its writers do not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from safe_rl.tuning.journal import _Lock, cut_torn_line, open_journal


def make(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=open_journal(path), study_name="s", load_if_exists=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"one\ntwo\n", b"one\ntwo\n"),
        (b"one\ntw", b"one\n"),
        (b"tw", b""),
        (b"one\n" + b"x" * 10_000, b"one\n"),
    ],
)
def test_what_stands_behind_the_last_line_break_is_cut_off(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(before)
    cut_torn_line(path)
    assert path.read_bytes() == after


def test_a_line_that_was_torn_does_not_damage_the_study(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    make(path).ask()
    with open(path, "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","study_')
    study = make(path)
    study.tell(study.ask(), 1.0)
    assert [trial.number for trial in make(path).trials] == [0, 1]
    assert make(path).trials[1].value == 1.0


def test_a_lock_whose_holder_is_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    study = make(path)
    hold = (
        "import sys, time; from pathlib import Path; from safe_rl.tuning.journal import _Lock\n"
        "_Lock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    started = time.monotonic()
    study.ask()
    assert time.monotonic() - started < 5


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "journal.log"
    lock = _Lock(path)
    lock.acquire()
    with open(tmp_path / ".journal.log.lock", "rb+") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.release()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_folder_of_a_journal_is_made(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b" / "journal.log")
    assert (tmp_path / "a" / "b" / "journal.log").is_file()
