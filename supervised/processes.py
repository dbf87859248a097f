"""The processes that share one run: who this one is, what is its own of the work, and what all of them know together.

A command is one process unless `accelerate launch` started it; then nothing of torch.distributed is touched, and every
method below is what it is for one alone. Started by the launcher, processes talk over gloo for what lies on the CPU and
over nccl for what lies on a GPU. All of them call the collective methods (`sum_`, `gather`, `same`, `any`, `wait`) in
the same order; where one has ended, the others are told in one line instead of waiting for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from supervised.differences import differences
from supervised.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say how many processes there are."""
PATIENCE = timedelta(hours=12)
"""How long a process waits for another one that is busy; a launcher ends those that wait for one that failed."""


class Processes:
    """One of `count` processes; the main one alone writes files and prints.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
    """

    _current: ClassVar[Processes | None] = None

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def current(cls) -> Processes:
        """Return the processes of this run; the first call makes those that a launcher started know each other.

        Raises:
            ConfigError: the launcher was asked for several processes on the CPU and started one.
        """
        if cls._current is None:
            cls._current = cls._join()
        return cls._current

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def mine(self, rows: Sequence[T]) -> Sequence[T]:
        """Return every `count`-th row, from `rank` on: over all processes each row once."""
        return rows[self.rank :: self.count]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place; bit for bit the same on each of them.

        Every process gives tensors of the same shapes and types in the same order; those of one type and device travel
        as one buffer.
        """
        if self.count == 1 or not tensors:
            return
        import torch
        from torch import distributed

        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        with torch.no_grad(), _told_of_an_end():
            for alike in kinds.values():
                buffer = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
                distributed.all_reduce(buffer)
                parts = buffer.split([tensor.numel() for tensor in alike])
                for tensor, part in zip(alike, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in the order of their ranks.

        Args:
            value: what JSON can say; it comes back as JSON reads it, so that tuples are lists, also from this process.
        """
        text = json.dumps(value)
        if self.count == 1:
            return [json.loads(text)]
        import torch
        from torch import distributed

        told = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        with _told_of_an_end():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
            distributed.all_gather(sizes, torch.tensor([told.numel()]))
            longest = max(int(size) for size in sizes)
            heard = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
            distributed.all_gather(heard, torch.nn.functional.pad(told, (0, longest - told.numel())))
        return [json.loads(bytes(line[: int(size)].tolist()).decode()) for line, size in zip(heard, sizes, strict=True)]

    def same(self, value: Any, what: str) -> None:
        """Make sure that all processes were given the same.

        Args:
            value: what JSON can say, such as a configuration or a hash of the data.
            what: name of it, for the message.

        Raises:
            ConfigError: on every process; names the first process and place that differ from the main process.
        """
        first, *others = self.gather(value)
        for rank, other in enumerate(others, start=1):
            for place, there, here in differences({what: first}, {what: other}):
                raise ConfigError(
                    f"{place} is {json.dumps(there)[:80]} on process 0 and {json.dumps(here)[:80]} on process {rank}; "
                    "start all processes with the same command, code and files."
                )

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on one process at least."""
        return any(self.gather(bool(flag)))

    def by_main(self, work: Callable[[], T]) -> T:
        """Let the main process alone do something; return its result on all processes.

        Args:
            work: returns what JSON can say. It must not talk to the other processes.

        Raises:
            Exception: on the main process what `work` raised, on the others a ProcessError.
        """
        told: T | None = None
        with self.together():
            told = work() if self.main else None
        return cast("T", told if self.count == 1 else self.gather(told)[0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block when all processes have done it; where one failed, all of them fail in its place.

        Inside, a process works by itself: no collective method is called.

        Raises:
            ProcessError: another process failed, or has ended.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            self.gather(" ".join(str(error).split()) or type(error).__name__)
            raise
        for rank, told in enumerate(self.gather(None)):
            if told is not None:
                raise ProcessError(f"process {rank} of this run ended: {told}")

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.gather(None)

    def close(self) -> None:
        """Part from the others: from here on this process is alone, and collective methods concern nobody else."""
        if self.count > 1:
            from accelerate import PartialState

            self.count = 1
            PartialState().destroy_process_group()

    @classmethod
    def _join(cls) -> Processes:
        if not _launched():
            return cls()
        import torch
        from accelerate import PartialState
        from accelerate.utils import patch_environment

        # Both, because a run on GPUs also has texts and flags to share, which never leave the CPU.
        cuda = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"
        backend = {"backend": "cpu:gloo,cuda:nccl"} if cuda else {}
        # DeepSpeed joins the processes that torch made; asked to make them, it would know one kind of connection.
        with patch_environment(ACCELERATE_USE_DEEPSPEED="false"):
            state = PartialState(cpu=not cuda, timeout=PATIENCE, **backend)
        return cls(state.process_index, state.num_processes)


def main_by_launcher() -> bool:
    """Whether this is the main process, told by the launcher's environment before the processes know each other."""
    return _launched_count() == 1 or int(os.environ.get("RANK") or 0) == 0


def _launched_count() -> int:
    return max(int(os.environ.get(name) or 1) for name in SIZES)


def _launched() -> bool:
    """Whether a launcher started this process as one of several.

    Raises:
        ConfigError: it should have, and did not.
    """
    count = _launched_count()
    if count == 1 and "LOCAL_RANK" not in os.environ and {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= set(os.environ):
        raise ConfigError(
            "accelerate launch was asked for several processes on the CPU, but starts a single one without MPI; "
            "give it --config_file configs/accelerate/cpu.yaml instead of --cpu."
        )
    return count > 1


@contextmanager
def _told_of_an_end() -> Iterator[None]:
    """Turn what torch says about a connection that broke into one line."""
    try:
        yield
    except RuntimeError as cause:
        told = " ".join(str(cause).split())[:120]
        raise ProcessError(
            f"another process of this run ended before this one ({told}); what it said stands above. "
            "Start the same command again to go on."
        ) from cause
