"""A run folder says what was asked and what came out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from safe_rl.run_folder import RunFolder
from supervised.errors import ConfigError


@dataclass(frozen=True)
class Small:
    """A small configuration."""

    alpha: float = 0.6
    """Price."""


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scalars(folder: Path) -> list[tuple[int, float]]:
    """Return (step, value) of train/loss, as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_the_beginning_writes_the_configuration_and_the_circumstances(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.begin(Small(0.4), "train_policy", [0, 1])
        folder.note(table="abc")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == {"alpha": 0.4}
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["verb"], facts["seeds"], facts["finished"]) == ("train_policy", [0, 1], None)
    assert facts["hashes"] == {"table": "abc"}
    assert facts["config"] == {"alpha": 0.4}
    assert facts["versions"]["torch"].startswith("2.")
    assert facts["machine"]["cores"] >= 1


def test_the_end_writes_the_figures(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.begin(Small(), "train_policy", [0])
        folder.finish({"policies": {}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"policies": {}}
    assert json.loads((tmp_path / "run.json").read_text())["finished"] is not None


def test_a_damaged_history_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"verb": "train_policy", "earlier": [5]}')
    with RunFolder(tmp_path) as folder:
        folder.begin(Small(), "train_policy", [])
    assert [entry["verb"] for entry in json.loads((tmp_path / "run.json").read_text())["earlier"]] == ["train_policy"]


def test_earlier_commands_are_kept(tmp_path: Path) -> None:
    for verb in ("train_stage_a", "build_outcomes", "train_policy"):
        with RunFolder(tmp_path) as folder:
            folder.begin(Small(), verb, [])
    facts = json.loads((tmp_path / "run.json").read_text())
    assert [entry["verb"] for entry in facts["earlier"]] == ["train_stage_a", "build_outcomes"]
    assert "earlier" not in facts["earlier"][0]


def test_what_adds_to_a_run_leaves_its_configuration_as_it_is(tmp_path: Path) -> None:
    told = []
    commands = [("pareto", 0.1), ("pareto", 0.2), ("certify", 0.3), ("train_policy", 0.4), ("certify", 0.5)]
    for verb, alpha in [*commands, ("pareto", 0.6), ("train_policy", 0.7)]:
        with RunFolder(tmp_path) as folder:
            folder.begin(Small(alpha), verb, [])
        files = sorted(tmp_path.glob("config*.yaml"))
        told.append({file.stem: yaml.safe_load(file.read_text())["alpha"] for file in files})
    began = {"config": 0.2, "config-certify": 0.3}
    assert told[:3] == [{"config": 0.1}, {"config": 0.2}, began]  # of the command that began the folder
    assert told[3:5] == [began | {"config": 0.4}, {"config": 0.4, "config-certify": 0.5}]
    assert told[5:] == [{**told[4], "config-pareto": 0.6}, {**told[4], "config-pareto": 0.6, "config": 0.7}]
    facts = json.loads((tmp_path / "run.json").read_text())
    files_told = [entry["config_file"] for entry in (*facts["earlier"], facts)]
    assert files_told.count("config.yaml") == 4
    assert files_told[-2:] == ["config-pareto.yaml", "config.yaml"]


def test_records_go_to_a_line_and_to_tensorboard(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.record(3, {"train/loss": 0.5, "train/ratio": float("nan")}, "seed-0")
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert {key: line[key] for key in ("part", "step", "train/loss", "train/ratio")} == {
        "part": "seed-0",
        "step": 3,
        "train/loss": 0.5,
        "train/ratio": None,
    }
    assert scalars(tmp_path / "tensorboard" / "seed-0") == [(3, 0.5)]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        RunFolder(tmp_path / "run").begin(Small(), "pareto", [])


def test_a_part_that_goes_on_records_nothing_twice(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        for step in (1, 2, 3):
            folder.record(step, {"train/loss": float(step)}, "seed-0")
            folder.record(step, {"train/loss": 9.0}, "seed-1")
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{}\n{"time": 1, "pa{"time": 2}\n\xff\xfe\n')  # a disk that failed
        file.write(b'{"time": 1, "part": "se')  # a kill in the middle of a line
    with RunFolder(tmp_path) as folder:
        folder.rewind("seed-0", 1)
        folder.record(2, {"train/loss": 20.0}, "seed-0")
    told = [(line["part"], line["step"], line["train/loss"]) for line in lines(tmp_path / "metrics.jsonl")]
    others = [("seed-1", step, 9.0) for step in (1, 2, 3)]
    assert told == [("seed-0", 1, 1.0), *others, ("seed-0", 2, 20.0)]
    assert scalars(tmp_path / "tensorboard" / "seed-0") == [(1, 1.0), (2, 20.0)]
