"""Whether the process that took a trial is still there."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from safe_rl.tuning import owner as owners
from safe_rl.tuning.owner import SILENCE, Heartbeat, Owner, is_gone


def test_this_process_is_there_however_long_it_is_silent() -> None:
    assert not is_gone(Owner.here().to_dict(), beat=0.0)


def test_two_owners_in_one_process_are_told_apart() -> None:
    assert Owner.here() != Owner.here()


def test_a_process_that_was_killed_is_gone_at_once_even_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        dead = replace(Owner.here(), pid=process.pid, born=owners._process(process.pid)[1])
        assert not is_gone(dead.to_dict(), beat=time.time())
        process.kill()
        end = time.monotonic() + 30
        while not is_gone(dead.to_dict(), beat=time.time()):  # a zombie still has its number
            assert time.monotonic() < end
    assert is_gone(dead.to_dict(), beat=time.time())


def test_another_process_with_the_same_number_is_not_taken_for_the_owner() -> None:
    here = Owner.here()
    assert here.born
    assert is_gone(replace(here, born="1").to_dict(), beat=time.time())


def test_an_owner_elsewhere_is_gone_when_he_is_silent() -> None:
    elsewhere = replace(Owner.here(), host="another").to_dict()
    assert not is_gone(elsewhere, beat=time.time() - SILENCE / 2)
    assert is_gone(elsewhere, beat=time.time() - 2 * SILENCE)


def test_a_heartbeat_signs_at_once_and_then_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "BEAT", 0.01)
    signed: list[float] = []
    with Heartbeat(signed.append):
        assert len(signed) >= 1
        end = time.monotonic() + 30
        while len(signed) < 3:
            assert time.monotonic() < end
            time.sleep(0.005)
    count = len(signed)
    time.sleep(0.05)
    assert len(signed) == count
    assert signed == sorted(signed)


def test_a_heartbeat_that_cannot_sign_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "BEAT", 0.01)
    calls: list[float] = []

    def sign(at: float) -> None:
        calls.append(at)
        if len(calls) == 2:
            raise OSError("the storage is gone")

    with Heartbeat(sign):
        time.sleep(0.1)
    assert len(calls) == 2
