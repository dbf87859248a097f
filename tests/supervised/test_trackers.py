"""Trackers: the same scalars for each, a refusal where a package is missing, and Weights & Biases without a net."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest

from supervised import trackers
from supervised.errors import ConfigError
from supervised.trackers import open_tracker, require_tracker

OFFLINE = """
import sys
from pathlib import Path
from supervised.trackers import open_tracker
folder = Path(sys.argv[1])
first, second = (open_tracker("wandb", folder, part) for part in ("seed-0", "seed-1"))
first.add(1, {"train/loss": 0.5})
second.add(1, {"train/loss": 2.5})
first.add(2, {"train/loss": 0.25})
first.close(), second.close()
again = open_tracker("wandb", folder, "seed-0")  # the run goes on
again.add(3, {"train/loss": 0.125})
again.close()
"""


def events(folder: Path) -> list[tuple[int, str, float]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        (event.step, value.tag, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
        for path in sorted(folder.glob("events.*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def test_tensorboard_gets_the_scalars_of_a_part(tmp_path: Path) -> None:
    tracker = open_tracker("tensorboard", tmp_path, "seed-0")
    tracker.add(3, {"train/loss": 0.5})
    tracker.close()
    assert events(tmp_path / "tensorboard" / "seed-0") == [(3, "train/loss", 0.5)]


def test_none_leaves_nothing(tmp_path: Path) -> None:
    tracker = open_tracker("none", tmp_path, "seed-0")
    tracker.add(3, {"train/loss": 0.5})
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(trackers, "version", missing)
    with pytest.raises(ConfigError, match=r"pip install 'safe-rl-audio\[wandb\]', or give --tracker tensorboard"):
        require_tracker("wandb")
    require_tracker("tensorboard")
    require_tracker("none")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb, an optional package, is not installed")
def test_weights_and_biases_keeps_the_scalars_without_a_net(tmp_path: Path) -> None:
    environment = os.environ | {"WANDB_MODE": "offline"}
    subprocess.run([sys.executable, "-c", OFFLINE, str(tmp_path)], env=environment, check=True, timeout=240)
    first = list((tmp_path / "wandb" / "seed-0" / "wandb").glob("offline-run-*/*.wandb"))
    second = list((tmp_path / "wandb" / "seed-1" / "wandb").glob("offline-run-*/*.wandb"))
    assert (len(first), len(second)) == (2, 1)
    identity = (tmp_path / "wandb" / "seed-0" / "id").read_text()
    assert all(identity in path.name for path in first)  # both belong to one run over there
    assert identity not in second[0].name
    assert logged(second[0]) == [(1, 2.5)]
    assert sorted(row for path in first for row in logged(path)) == [(1, 0.5), (2, 0.25), (3, 0.125)]


def logged(path: Path) -> list[tuple[int, float]]:
    """Return step and loss of every record in a file of Weights & Biases."""
    import json

    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            told = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append((record.history.step.num, told["train/loss"]))
    return rows


def records(content: bytes) -> Iterator[bytes]:
    """Take a file in LevelDB's log format apart: blocks of 32 KiB, pieces with a checksum, a length and a kind."""
    place, record = 7, b""  # behind the file's own header
    while place + 7 <= len(content):
        if (rest := 32_768 - place % 32_768) < 7:
            place += rest
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
