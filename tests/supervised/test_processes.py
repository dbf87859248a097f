"""Processes that `accelerate launch` started on the CPU, and one that nobody launched."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from supervised.errors import ConfigError
from supervised.processes import Processes

Launch = Callable[..., subprocess.CompletedProcess[str]]

TALK = """
import json, sys
from pathlib import Path
import torch
from supervised.errors import SafeError
from supervised.processes import Processes

processes = Processes.current()
rank = processes.rank
parts = [torch.tensor([1.0, 2.0]) * (rank + 1), torch.full((2, 2), float(rank), dtype=torch.float64), torch.ones(())]
processes.sum_(parts)
generator = torch.Generator().manual_seed(rank)
noise = [torch.randn(10_007, generator=generator)]
processes.sum_(noise)
told = {
    "count": processes.count, "main": processes.main, "again": Processes.current() is processes,
    "mine": processes.mine(list(range(8))), "parts": [part.tolist() for part in parts],
    "noise": noise[0].view(torch.int32).tolist(), "gathered": processes.gather({"rank": rank, "word": "ä" * rank}),
    "any": [processes.any(False), processes.any(rank == 2)],
    "by_main": processes.by_main(lambda: {"rank": rank}), "errors": [],
}
processes.same({"a": {"b": 1}}, "configuration")

def other():
    processes.same({"a": {"b": rank // 2}}, "configuration")

def fail():
    with processes.together():
        if rank == 1:
            raise ValueError("no such clip")

def main_fails():
    processes.by_main(lambda: 1 / 0)

for action in (other, fail, main_fails):
    try:
        action()
    except Exception as error:
        told["errors"].append([type(error).__name__, str(error)])
processes.wait()
processes.close()
told["alone"] = [processes.count, processes.gather(rank), processes.main]
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def three(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three processes saw."""
    folder = tmp_path_factory.mktemp("three")
    (folder / "talk.py").write_text(textwrap.dedent(TALK))
    ended = launch(folder / "talk.py", folder, processes=3)
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_every_row_belongs_to_one_process(three: list[dict[str, Any]]) -> None:
    assert [told["mine"] for told in three] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [told["main"] for told in three] == [True, False, False]
    assert [told["count"] for told in three] == [3, 3, 3]
    assert all(told["again"] for told in three)


def test_sums_are_over_all_processes_and_the_same_bits_on_each(three: list[dict[str, Any]]) -> None:
    for told in three:
        assert told["parts"] == [[6.0, 12.0], [[3.0, 3.0], [3.0, 3.0]], 3.0]
        assert told["noise"] == three[0]["noise"]
    noise = [torch.randn(10_007, generator=torch.Generator().manual_seed(rank)) for rank in range(3)]
    expected = torch.stack(noise).double().sum(0).float()
    torch.testing.assert_close(torch.tensor(three[0]["noise"], dtype=torch.int32).view(torch.float32), expected)


def test_values_come_back_in_the_order_of_ranks(three: list[dict[str, Any]]) -> None:
    for told in three:
        assert told["gathered"] == [
            {"rank": 0, "word": ""},
            {"rank": 1, "word": "ä"},
            {"rank": 2, "word": "ää"},
        ]
        assert told["any"] == [False, True]
        assert told["by_main"] == {"rank": 0}


def test_a_difference_or_a_failure_ends_the_work_on_all_of_them(three: list[dict[str, Any]]) -> None:
    for rank, told in enumerate(three):
        (other, differs), (failed, why), (main, why_main) = told["errors"]
        assert other == "ConfigError"
        assert differs.startswith("configuration.a.b is 0 on process 0 and 1 on process 2; start all processes")
        assert failed == ("ValueError" if rank == 1 else "ProcessError")
        assert why == ("no such clip" if rank == 1 else "process 1 of this run ended: no such clip")
        assert main == ("ProcessError" if rank else "ZeroDivisionError")
        assert why_main == ("process 0 of this run ended: division by zero" if rank else "division by zero")


def test_each_process_is_alone_once_it_parted(three: list[dict[str, Any]]) -> None:
    assert [told["alone"] for told in three] == [[1, [0], True], [1, [1], False], [1, [2], False]]


def test_a_process_that_dies_leaves_nobody_waiting(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "die.py").write_text(
        textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from supervised.errors import ProcessError
        from supervised.processes import Processes

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        processes = Processes.current()
        processes.wait()
        if processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            processes.wait()
        except ProcessError as error:
            Path(sys.argv[1], "told").write_text(str(error))
        """)
    )
    assert launch(tmp_path / "die.py", tmp_path).returncode != 0
    told = (tmp_path / "told").read_text()
    assert told.startswith("another process of this run ended before this one (")
    assert told.endswith("Start the same command again to go on.")
    assert "\n" not in told


def test_one_alone_is_the_main_process_and_touches_nothing_of_torch_distributed() -> None:
    code = """
import sys
from supervised.processes import Processes
processes = Processes.current()
assert (processes.rank, processes.count, processes.main) == (0, 1, True)
assert processes.mine([1, 2, 3]) == [1, 2, 3]
assert processes.gather((1, 2)) == [[1, 2]] and processes.by_main(lambda: 3) == 3
assert not processes.any(False) and processes.any(True)
processes.sum_([]), processes.same(1, "it"), processes.wait(), processes.close()
with processes.together():
    pass
assert not {"torch", "accelerate"} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sums_of_one_alone_are_what_it_gave() -> None:
    given = torch.tensor([1.0, -0.0])
    Processes().sum_([given])
    assert given.view(torch.int32).tolist() == torch.tensor([1.0, -0.0]).view(torch.int32).tolist()


def test_a_launcher_that_started_one_process_instead_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "_current", None)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"starts a single one without MPI; give it --config_file configs/accelerate"):
        Processes.current()
