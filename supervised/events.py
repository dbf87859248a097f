"""TensorBoard event files, written in the caller's thread: scalars go in, a file that TensorBoard reads comes out.

torch's SummaryWriter writes from a thread of its own. There a full disk ends in a traceback nobody can catch, and a
Ctrl-C between the two threads may leave `close` waiting for ever. A training loop logs too little to need a thread.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path


class EventWriter:
    """One event file in a folder.

    Args:
        folder: made when missing; TensorBoard shows its name as that of the run.
        purge_step: what earlier files of the folder say about this step and later ones no longer counts.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # Nanoseconds and process keep two files of one second apart; TensorBoard reads a folder's files in this order.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(open(folder / name, "xb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            self._write(Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars of one step; they are on their way to the disk when this returns."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, event: object) -> None:
        self._records.write(event.SerializeToString())  # type: ignore[attr-defined]
        self._records.flush()
