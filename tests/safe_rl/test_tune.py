"""A study from the command line: what comes out of it, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from PIL import Image

from agents.gate_policy import load_policy
from envs.outcomes import OutcomeTable
from safe_rl import train_policy
from safe_rl.config import RunConfig
from safe_rl.options import from_dict, parse, to_dict
from safe_rl.tune import main
from safe_rl.tuning.trials import Yardstick

Options = Callable[..., list[str]]
Stored = Callable[..., list[optuna.trial.FrozenTrial]]
TRIALS = 8
"""Of the finished study."""


def rows(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "tune" / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_the_csv_and_the_json_hold_every_trial(finished_study: Path) -> None:
    assert [int(row["trial"]) for row in rows(finished_study)] == list(range(TRIALS))
    study = json.loads((finished_study / "tune" / "study.json").read_text())
    assert [trial["number"] for trial in study["trials"]] == list(range(TRIALS))
    assert sum(study["states"].values()) == TRIALS
    feasible = [trial for trial in study["trials"] if trial["feasible"]]
    assert study["best"] == max(feasible, key=lambda trial: trial["values"][0])["number"]


def test_the_first_trial_is_the_run_itself_also_where_the_space_cannot_say_so(
    options: Options, stored: Stored, finished_study: Path, table: Path
) -> None:
    first = stored(finished_study)[0]
    own = parse(RunConfig, options(table, finished_study), "tune", "")
    assert first.user_attrs["config"] == to_dict(own)
    assert own.lagrangian.initial is None
    assert first.params["lagrangian.initial"] == 0.0
    assert first.params["ppo.learning_rate"] == own.ppo.learning_rate
    assert rows(finished_study)[0]["lagrangian.initial"] == "null"


def test_every_trial_keeps_seeds_versions_and_its_complete_configuration(stored: Stored, finished_study: Path) -> None:
    for trial in stored(finished_study)[1:]:
        assert trial.user_attrs["seeds"] == [0, 1]
        assert trial.user_attrs["versions"].keys() >= {"torch", "optuna", "stable-baselines3", "python"}
        config = from_dict(RunConfig, trial.user_attrs["config"])
        assert to_dict(config) == trial.user_attrs["config"]
        assert config.reward.alpha == trial.params["reward.alpha"]
        assert config.lagrangian.initial == trial.params["lagrangian.initial"]
        assert " ".join(map(str, config.ppo.hidden)) == trial.params["ppo.hidden"]


def test_the_value_is_the_mean_over_seeds_and_the_constraint_the_worst_of_them(
    stored: Stored, finished_study: Path
) -> None:
    complete = [trial for trial in stored(finished_study) if trial.state.name == "COMPLETE"]
    assert len(complete) >= 4
    for trial in complete:
        per_seed = trial.user_attrs["per_seed"]
        assert [result["seed"] for result in per_seed] == [0, 1]
        assert trial.value == (per_seed[0]["utility"] + per_seed[1]["utility"]) / 2
        assert trial.user_attrs["constraints"] == [max(result["bound"] for result in per_seed), -1.0]
        if hasattr(trial, "constraints"):  # optuna 5
            assert list(trial.constraints.values()) == trial.user_attrs["constraints"]


def test_train_policy_takes_the_best_configuration_and_gives_the_policies_of_the_trial(
    options: Options, stored: Stored, finished_study: Path, table: Path
) -> None:
    best = finished_study / "tune" / "best.yaml"
    assert yaml.safe_load(best.read_text()) == to_dict(parse(RunConfig, ["--config", str(best)], "train_policy", ""))
    assert train_policy.main(["--config", str(best), "--seeds", "2"]) == 0
    number = json.loads((finished_study / "tune" / "study.json").read_text())["best"]
    opened = OutcomeTable.open(table)
    yardstick = Yardstick(opened, parse(RunConfig, options(table, finished_study), "tune", ""))
    for result in stored(finished_study)[number].user_attrs["per_seed"]:
        policy = load_policy(finished_study / "tune" / "best" / "policies" / f"seed-{result['seed']}")
        figures = yardstick(policy.decide(opened.split("validation").observation(slice(None))))
        assert figures["tune/utility"] == result["utility"]
        assert figures["tune/latency_ms"] == result["latency_ms"]


def test_pictures_lie_in_the_folder(finished_study: Path) -> None:
    for name in ("history.png", "importance.png"):
        with Image.open(finished_study / "tune" / name) as picture:
            assert picture.format == "PNG"
    assert not (finished_study / "tune" / "front.png").exists()


def test_no_trial_reads_test_or_calibration_rows(
    options: Options, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    split = OutcomeTable.split
    monkeypatch.setattr(OutcomeTable, "split", lambda self, name: asked.append(name) or split(self, name))
    assert main([*options(table, tmp_path / "run", "--tune.seeds_per_trial", "1"), "--tune.trials", "2"]) == 0
    assert set(asked) == {"train", "validation"}


# -- two objectives and limits -----------------------------------------------------------------------------------------


def test_two_objectives_give_a_front(options: Options, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        main([*options(table, run, "--tune.mode", "pareto", "--tune.seeds_per_trial", "1"), "--tune.trials", "5"]) == 0
    )
    study = json.loads((run / "tune" / "study.json").read_text())
    front = [study["trials"][number] for number in study["front"]]
    assert front
    for trial in front:
        assert trial["values"] == [trial["figures"]["accuracy"], trial["figures"]["latency_ms"]]
        for other in study["trials"]:
            better = other["values"][0] >= trial["values"][0] and other["values"][1] <= trial["values"][1]
            assert not (better and other["values"] != trial["values"] and other["feasible"])
    assert study["best"] == max(front, key=lambda trial: trial["figures"]["utility"])["number"]
    with Image.open(run / "tune" / "front.png") as picture:
        assert picture.format == "PNG"
    assert not (run / "tune" / "history.png").exists()
    assert {row["state"] for row in rows(run)} == {"complete"}


def test_a_pruner_with_two_objectives_is_refused(
    options: Options, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = options(table, tmp_path / "run", "--tune.mode", "pareto", "--tune.pruner", "median")
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "tune.pruner median does not go with tune.mode pareto" in told


def test_no_best_configuration_is_written_where_no_trial_keeps_the_limits(
    options: Options, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*options(table, tmp_path / "run", "--tune.max_latency_ms", "5"), "--tune.trials", "2"]
    assert main([*argv, "--tune.seeds_per_trial", "1"]) == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert "No trial of 2 keeps the limits on the validation rows (nearest: trial" in told
    assert "breaks tune.max_latency_ms by" in told  # at least 10 ms where 5 are allowed
    assert not (tmp_path / "run" / "tune" / "best.yaml").exists()
    assert [row["feasible"] for row in rows(tmp_path / "run")] == ["False", "False"]


def test_the_exact_agent_is_tuned_as_well(options: Options, stored: Stored, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*options(table, run, "--agent", "exact", "--exact.steps", "60"), "--tune.trials", "5"]
    assert main(argv) == 0
    found = stored(run)
    assert all(key.startswith(("exact.", "reward.", "lagrangian.")) for key in found[1].params)
    assert all(len(trial.intermediate_values) in range(5, 21) for trial in found)
    assert main([*argv, "--trial", "1"]) == 0


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_settings_that_diverge_fail_their_trial_alone_and_say_why(
    options: Options, table: Path, tmp_path: Path
) -> None:
    argv = options(table, tmp_path / "run", "--tune.space.learning_rate", "[1e-3, 1e38]", "--tune.seeds_per_trial", "1")
    assert main([*argv, "--tune.trials", "4"]) == 0
    found = rows(tmp_path / "run")
    assert found[0]["state"] == "complete"
    failed = [row for row in found if row["state"] == "fail"]
    assert failed
    assert all("nan after" in row["reason"] or "no longer finite" in row["reason"] for row in failed)


def test_a_study_of_other_parameters_is_refused_by_its_folder(
    options: Options, finished_study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, finished_study, "--tune.space.alpha", "null")) == 2
    told = capsys.readouterr().err
    assert "(tune.space.alpha [0.2, 1.8] there, null here); give another --run_dir." in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--tune.space.alpha [0.2,1.0]", r"tune.space.alpha [0.2, 1.8] there, [0.2, 1.0] here"),
        ("--lagrangian.limit 0.5", "lagrangian.limit 0.2 there, 0.5 here"),
        ("--tune.mode pareto", 'tune.mode "single" there, "pareto" here'),
    ],
)
def test_a_study_of_other_parameters_is_refused_by_its_storage(
    options: Options,
    finished_study: Path,
    table: Path,
    tmp_path: Path,
    words: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal = str(finished_study / "tune" / "journal.log")
    assert main(options(table, tmp_path / "run", "--tune.storage", journal, *words.split())) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"was made with other parameters ({told}); give another --tune.study" in line


def test_a_study_of_another_table_is_refused(
    options: Options,
    finished_study: Path,
    make_table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_table(tmp_path / "table", seed=1)
    argv = options(other, tmp_path / "run", "--tune.storage", str(finished_study / "tune" / "journal.log"))
    assert main(argv) == 2
    assert "was made with other parameters (table_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("nothing://here", "tune.storage: nothing://here cannot be opened"),
        ("postgresql://me:secret@nowhere/db", "tune.storage: postgresql://me@nowhere/db cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told_without_its_password(
    options: Options, table: Path, tmp_path: Path, storage: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, tmp_path / "run", "--tune.storage", storage)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert told in line
    assert "secret" not in line


def test_a_journal_that_is_none_is_told(
    options: Options, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("hello\nworld\n")
    argv = options(table, tmp_path / "run", "--tune.storage", str(tmp_path / "notes.txt"))
    assert main(argv) == 2
    assert "notes.txt is not a journal of optuna, or is damaged" in capsys.readouterr().err
