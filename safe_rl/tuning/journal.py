"""The journal file of a study: several processes append to it, and one of them may be killed at any moment.

A lock that its holder takes to the grave is freed by the kernel, and a line that was torn by a kill or a full disk is
cut off before the next one is written; it was never confirmed to anybody.
"""

from __future__ import annotations

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]


def open_journal(path: Path) -> JournalStorage:
    """Open the journal at `path`; create it, and its folder, if it is not there.

    Raises:
        OSError: the file may not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    lock = JournalFileOpenLock(str(path)) if fcntl is None else _Lock(path)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


class _Lock(JournalFileOpenLock):
    """An advisory lock on a file beside the journal; every holder opens the file itself, threads included."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._path = journal.with_name(f".{journal.name}.lock")
        self._handle: int | None = None

    def acquire(self) -> bool:
        handle = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            cut_torn_line(self._journal)
        except BaseException:
            os.close(handle)  # frees the lock
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def cut_torn_line(path: Path) -> None:
    """Cut off what stands behind the last line break of a file; nobody else may write to it meanwhile."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept > 0:
            first = max(kept - 4096, 0)
            file.seek(first)
            found = file.read(kept - first).rfind(b"\n")
            kept = first + found + 1
            if found >= 0:
                break
        if kept < end:
            file.truncate(kept)
