"""Who runs a trial, and whether he is still there: a process that was killed cannot say so itself.

On the same machine a dead process is known at once. From another machine only its silence tells: an owner signs in
every `BEAT` seconds, and one who has not done so for `SILENCE` seconds is taken for dead. Clocks must agree that well.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

BEAT = 15.0
SILENCE = 120.0


@dataclass(frozen=True)
class Owner:
    """A process that runs trials."""

    host: str
    """Where its number means something: a boot of a machine and a namespace of processes."""
    pid: int
    born: str
    """Start of the process in the kernel's own clock, because numbers are given again; empty: not known."""
    token: str

    @classmethod
    def here(cls) -> Owner:
        """Return an owner for this process, unlike every other."""
        return cls(_host(), os.getpid(), _process(os.getpid())[1], uuid.uuid4().hex)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def is_gone(owner: dict[str, Any], beat: float) -> bool:
    """Whether the process that called itself `owner`, and signed in at `beat` (Unix seconds), is gone."""
    if owner["host"] != _host():
        return time.time() - beat > SILENCE
    alive, born = _process(owner["pid"])
    return not alive or born != owner["born"]


class Heartbeat:
    """Signs in every `BEAT` seconds while its block runs, from a thread, because a rollout may take longer.

    Args:
        sign: writes the present time where the others look for it; an error in it ends the signing, not the block.
    """

    def __init__(self, sign: Callable[[float], None]) -> None:
        self._sign = sign
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._sign(time.time())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self._sign(time.time())
            except Exception:
                return  # the storage is gone or the trial is no longer ours; the block will meet that itself


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{platform.node()}/{uuid.getnode():x}"


def _process(pid: int) -> tuple[bool, str]:
    """Return whether a process of this host is alive, and when it was born."""
    try:
        # The name may hold spaces and brackets, so fields are counted from the last bracket: state, ..., start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] not in "ZX", fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False, ""
    except ProcessLookupError:  # ended while it was read
        return False, ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False, ""
    except OSError:
        pass  # it is there, but not ours
    return True, ""
