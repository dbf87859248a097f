"""A trial again: the same to the bit, or one line that says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from agents.gate_policy import load_policy
from safe_rl.config import RunConfig
from safe_rl.options import parse
from safe_rl.tune import main

Options = Callable[..., list[str]]
Stored = Callable[..., list[optuna.trial.FrozenTrial]]


def test_a_trial_is_rebuilt_to_the_bit(
    options: Options, stored: Stored, finished_study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = [trial.number for trial in stored(finished_study) if trial.state.name == "PRUNED"]
    assert pruned
    for number in (3, *pruned[:1]):
        assert main(options(table, finished_study, "--trial", str(number))) == 0
        trial = stored(finished_study)[number]
        told = capsys.readouterr().out
        assert f"Equal to the bit: value {trial.value!r}" in told or number in pruned
        assert f"{len(trial.intermediate_values)} reports." in told
    policy = load_policy(finished_study / "tune" / "trial-3" / "seed-1")
    assert policy.actions == ("skip", "use")
    config = finished_study / "tune" / "trial-3" / "config.yaml"
    assert parse(RunConfig, ["--config", str(config)], "train_policy", "").reward.alpha > 0


def test_a_trial_that_gives_something_else_is_told(
    options: Options,
    stored: Stored,
    finished_study: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_study, other)
    journal = other / "tune" / "journal.log"
    value = stored(other)[1].value
    assert value is not None
    text = journal.read_text()
    assert str(value) in text
    journal.write_text(text.replace(str(value), str(value + 0.25)))
    assert main(options(table, other, "--trial", "1")) == 1
    told = capsys.readouterr().err
    assert (
        f"Trial 1 is not what it was (values: [{value + 0.25}] there, [{value}] here); the versions are the same"
        in told
    )


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("8", r"trial must be one of the study's 8, 0 to 7, got 8"),
        ("-1", "trial must be the number of a trial, got -1"),
    ],
)
def test_a_trial_that_is_not_there_is_refused(
    options: Options, finished_study: Path, table: Path, number: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, finished_study, f"--trial={number}")) == 2
    assert told in capsys.readouterr().err


def test_a_trial_without_a_study_is_refused_and_leaves_nothing(
    options: Options, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, tmp_path / "run", "--trial", "0")) == 2
    assert "There is no study at" in capsys.readouterr().err
    assert not (tmp_path / "run" / "tune").exists()
