"""A study from the command line: the same whoever runs it, judged by one yardstick, resumed, rebuilt and refused."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
from safe_rl.tuning import trials
from safe_rl.tuning.journal import open_journal
from safe_rl.tuning.trials import Yardstick

QUICK = (
    "--total_timesteps 1500 --ppo.num_envs 250 --ppo.batch_size 250 --curriculum.steps 500 --lagrangian.limit 0.2 "
    "--tune.space.batch_size [125,250] --tune.space.hidden [[16,16],[32]] --tune.space.n_epochs [2,4] "
    "--tune.space.learning_rate [1e-5,1e-2] --tune.startup 4 --tune.batch 2 --smoothing.trees 5 --ppo.hidden [32]"
).split()
TRIALS = 8
FEW = ["--tune.trials", "5"]
"""For studies that are compared with the first trials of the large one."""


def options(table: Path, run_dir: Path, *more: str, workers: int = 1) -> list[str]:
    words = ["--table", str(table), "--run_dir", str(run_dir), *QUICK, "--tune.workers", str(workers)]
    return [*words, "--tune.trials", str(TRIALS), *more]  # the last word on a key counts


@pytest.fixture(scope="module")
def run_dir(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of eight trials, run in this process."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(options(table, folder)) == 0
    return folder


def stored(run_dir: Path, storage: str | None = None) -> list[optuna.trial.FrozenTrial]:
    place = storage or open_journal(run_dir / "tune" / "journal.log")
    return optuna.load_study(study_name="safe_rl", storage=place).get_trials()


def results(run_dir: Path, storage: str | None = None) -> list[tuple[Any, ...]]:
    """Everything about the trials that must not depend on who ran them."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.values,
            trial.params,
            dict(sorted(trial.intermediate_values.items())),
            trial.user_attrs["per_seed"],
            trial.user_attrs.get("constraints"),  # none where it was pruned before its first policy was ready
            trial.user_attrs["reason"],
        )
        for trial in stored(run_dir, storage)
    ]


def rows(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "tune" / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_the_csv_and_the_json_hold_every_trial(run_dir: Path) -> None:
    assert [int(row["trial"]) for row in rows(run_dir)] == list(range(TRIALS))
    study = json.loads((run_dir / "tune" / "study.json").read_text())
    assert [trial["number"] for trial in study["trials"]] == list(range(TRIALS))
    assert sum(study["states"].values()) == TRIALS
    feasible = [trial for trial in study["trials"] if trial["feasible"]]
    assert study["best"] == max(feasible, key=lambda trial: trial["values"][0])["number"]


def test_the_first_trial_is_the_run_itself_also_where_the_space_cannot_say_so(run_dir: Path, table: Path) -> None:
    first = stored(run_dir)[0]
    own = parse(RunConfig, options(table, run_dir), "tune", "")
    assert first.user_attrs["config"] == to_dict(own)
    assert own.lagrangian.initial is None
    assert first.params["lagrangian.initial"] == 0.0
    assert first.params["ppo.learning_rate"] == own.ppo.learning_rate
    assert rows(run_dir)[0]["lagrangian.initial"] == "null"


def test_every_trial_keeps_seeds_versions_and_its_complete_configuration(run_dir: Path) -> None:
    for trial in stored(run_dir)[1:]:
        assert trial.user_attrs["seeds"] == [0, 1]
        assert trial.user_attrs["versions"].keys() >= {"torch", "optuna", "stable-baselines3", "python"}
        config = from_dict(RunConfig, trial.user_attrs["config"])
        assert to_dict(config) == trial.user_attrs["config"]
        assert config.reward.alpha == trial.params["reward.alpha"]
        assert config.lagrangian.initial == trial.params["lagrangian.initial"]
        assert " ".join(map(str, config.ppo.hidden)) == trial.params["ppo.hidden"]


def test_the_value_is_the_mean_over_seeds_and_the_constraint_the_worst_of_them(run_dir: Path) -> None:
    complete = [trial for trial in stored(run_dir) if trial.state.name == "COMPLETE"]
    assert len(complete) >= 4
    for trial in complete:
        per_seed = trial.user_attrs["per_seed"]
        assert [result["seed"] for result in per_seed] == [0, 1]
        assert trial.value == (per_seed[0]["utility"] + per_seed[1]["utility"]) / 2
        assert trial.user_attrs["constraints"] == [max(result["bound"] for result in per_seed), -1.0]
        if hasattr(trial, "constraints"):  # optuna 5
            assert list(trial.constraints.values()) == trial.user_attrs["constraints"]


def test_train_policy_takes_the_best_configuration_and_gives_the_policies_of_the_trial(
    run_dir: Path, table: Path
) -> None:
    best = run_dir / "tune" / "best.yaml"
    assert yaml.safe_load(best.read_text()) == to_dict(parse(RunConfig, ["--config", str(best)], "train_policy", ""))
    assert train_policy.main(["--config", str(best), "--seeds", "2"]) == 0
    number = json.loads((run_dir / "tune" / "study.json").read_text())["best"]
    opened = OutcomeTable.open(table)
    yardstick = Yardstick(opened, parse(RunConfig, options(table, run_dir), "tune", ""))
    for result in stored(run_dir)[number].user_attrs["per_seed"]:
        policy = load_policy(run_dir / "tune" / "best" / "policies" / f"seed-{result['seed']}")
        figures = yardstick(policy.decide(opened.split("validation").observation(slice(None))))
        assert figures["tune/utility"] == result["utility"]
        assert figures["tune/latency_ms"] == result["latency_ms"]


def test_pictures_lie_in_the_folder(run_dir: Path) -> None:
    for name in ("history.png", "importance.png"):
        with Image.open(run_dir / "tune" / name) as picture:
            assert picture.format == "PNG"
    assert not (run_dir / "tune" / "front.png").exists()


def test_no_trial_reads_test_or_calibration_rows(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    split = OutcomeTable.split
    monkeypatch.setattr(OutcomeTable, "split", lambda self, name: asked.append(name) or split(self, name))
    assert main([*options(table, tmp_path / "run", "--tune.seeds_per_trial", "1"), "--tune.trials", "2"]) == 0
    assert set(asked) == {"train", "validation"}


# -- the same study, whoever runs it ----------------------------------------------------------------------------------


def test_a_study_that_grows_is_the_study_that_was_large_at_once(run_dir: Path, table: Path, tmp_path: Path) -> None:
    for total in ("2", "5"):
        assert main([*options(table, tmp_path / "run"), "--tune.trials", total]) == 0
    assert results(tmp_path / "run") == results(run_dir)[:5]


def test_the_same_command_again_runs_nothing_and_writes_the_same(run_dir: Path, table: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    before = (again / "tune" / "journal.log").read_bytes()
    assert main(options(table, again)) == 0
    assert (again / "tune" / "journal.log").read_bytes() == before
    assert (again / "tune" / "trials.csv").read_bytes() == (run_dir / "tune" / "trials.csv").read_bytes()


def start(argv: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "safe_rl.tune", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(ready: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not ready():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_two_commands_of_which_one_is_killed_make_the_same_study(run_dir: Path, table: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    more = ["--tune.storage", str(journal), *FEW]
    with start(options(table, tmp_path / "one", *more)) as one, start(options(table, tmp_path / "two", *more)) as two:

        def both_run() -> bool:  # each owns a trial and has reported on it
            text = journal.read_text() if journal.exists() else ""
            return text.count('"owner":{') >= 2 and text.count('"step":') >= 4

        wait_for(both_run, one, two)
        two.send_signal(signal.SIGKILL)
        out, err = one.communicate(timeout=300)
        two.communicate()
    assert one.returncode == 0, err
    assert two.returncode == -signal.SIGKILL
    shutil.copy(journal, tmp_path / "one" / "tune" / "journal.log")
    assert results(tmp_path / "one") == results(run_dir)[:5]
    assert "best.yaml" in out


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker_and_the_same_command_goes_on(run_dir: Path, table: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    journal = broken / "tune" / "journal.log"
    with start(options(table, broken, *FEW, workers=2)) as process:
        wait_for(lambda: journal.exists() and journal.read_text().count('"step":') >= 4, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == (
        f"Interrupted. What is finished is kept in {broken}; the same command goes on."
    )
    size = journal.stat().st_size
    assert {trial.state.name for trial in stored(broken)} <= {"COMPLETE", "PRUNED", "WAITING"}
    time.sleep(0.5)
    assert journal.stat().st_size == size  # nobody writes any more
    assert main(options(table, broken, *FEW)) == 0
    assert results(broken) == results(run_dir)[:5]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_by_the_others(run_dir: Path, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    journal = run / "tune" / "journal.log"
    with start(options(table, run, *FEW, workers=2)) as process:

        def owners() -> list[int]:
            text = journal.read_text() if journal.exists() else ""
            found = [
                json.loads(line).get("user_attr", {}).get("owner") for line in text.splitlines() if "owner" in line
            ]
            return [owner["pid"] for owner in found if owner]

        wait_for(lambda: bool(owners()), process)
        subprocess.run(["kill", "-9", str(owners()[0])], check=True)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "warning: a worker was killed (signal 9); another took over its trial." in err
    assert results(run) == results(run_dir)[:5]


def test_a_database_serves_as_well_as_the_journal(run_dir: Path, table: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    assert main([*options(table, tmp_path / "run", "--tune.storage", url), "--tune.trials", "2"]) == 0
    assert results(tmp_path, url) == results(run_dir)[:2]
    assert not (tmp_path / "run" / "tune" / "journal.log").exists()


# -- a trial again ----------------------------------------------------------------------------------------------------


def test_a_trial_is_rebuilt_to_the_bit(run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruned = [trial.number for trial in stored(run_dir) if trial.state.name == "PRUNED"]
    assert pruned
    for number in (3, *pruned[:1]):
        assert main(options(table, run_dir, "--trial", str(number))) == 0
        trial = stored(run_dir)[number]
        told = capsys.readouterr().out
        assert f"Equal to the bit: value {trial.value!r}" in told or number in pruned
        assert f"{len(trial.intermediate_values)} reports." in told
    policy = load_policy(run_dir / "tune" / "trial-3" / "seed-1")
    assert policy.actions == ("skip", "use")
    config = run_dir / "tune" / "trial-3" / "config.yaml"
    assert parse(RunConfig, ["--config", str(config)], "train_policy", "").reward.alpha > 0


def test_a_trial_that_gives_something_else_is_told(
    run_dir: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    journal = other / "tune" / "journal.log"
    value = stored(other)[1].value
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
    run_dir: Path, table: Path, number: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, run_dir, f"--trial={number}")) == 2
    assert told in capsys.readouterr().err


def test_a_trial_without_a_study_is_refused_and_leaves_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, tmp_path / "run", "--trial", "0")) == 2
    assert "There is no study at" in capsys.readouterr().err
    assert not (tmp_path / "run" / "tune").exists()


# -- two objectives and limits ----------------------------------------------------------------------------------------


def test_two_objectives_give_a_front(table: Path, tmp_path: Path) -> None:
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
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = options(table, tmp_path / "run", "--tune.mode", "pareto", "--tune.pruner", "median")
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "tune.pruner median does not go with tune.mode pareto" in told


def test_no_best_configuration_is_written_where_no_trial_keeps_the_limits(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*options(table, tmp_path / "run", "--tune.max_latency_ms", "5"), "--tune.trials", "2"]
    assert main([*argv, "--tune.seeds_per_trial", "1"]) == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert "No trial of 2 keeps the limits on the validation rows (nearest: trial" in told
    assert "breaks tune.max_latency_ms by" in told  # at least 10 ms where 5 are allowed
    assert not (tmp_path / "run" / "tune" / "best.yaml").exists()
    assert [row["feasible"] for row in rows(tmp_path / "run")] == ["False", "False"]


def test_the_exact_agent_is_tuned_as_well(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*options(table, run, "--agent", "exact", "--exact.steps", "60"), "--tune.trials", "5"]
    assert main(argv) == 0
    found = stored(run)
    assert all(key.startswith(("exact.", "reward.", "lagrangian.")) for key in found[1].params)
    assert all(len(trial.intermediate_values) in range(5, 21) for trial in found)
    assert main([*argv, "--trial", "1"]) == 0


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_settings_that_diverge_fail_their_trial_alone_and_say_why(table: Path, tmp_path: Path) -> None:
    argv = options(table, tmp_path / "run", "--tune.space.learning_rate", "[1e-3, 1e38]", "--tune.seeds_per_trial", "1")
    assert main([*argv, "--tune.trials", "4"]) == 0
    found = rows(tmp_path / "run")
    assert found[0]["state"] == "complete"
    failed = [row for row in found if row["state"] == "fail"]
    assert failed
    assert all("nan after" in row["reason"] or "no longer finite" in row["reason"] for row in failed)


def test_a_mistake_in_a_trial_fails_the_run_and_the_trial_waits(
    run_dir: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = trials.train_one, iter(range(100))

    def mistaken(*arguments: Any) -> Any:
        if next(calls) == 3:  # the second policy of trial 1
            raise KeyError("a mistake")
        return train(*arguments)

    monkeypatch.setattr(trials, "train_one", mistaken)
    argv = [*options(table, tmp_path / "run"), "--tune.trials", "3"]
    with pytest.raises(KeyError, match="a mistake"):
        main(argv)
    assert [trial.state.name for trial in stored(tmp_path / "run")] == ["COMPLETE", "WAITING"]
    assert main(argv) == 0
    assert results(tmp_path / "run") == results(run_dir)[:3]


def test_a_study_of_other_parameters_is_refused_by_its_folder(
    run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, run_dir, "--tune.space.alpha", "null")) == 2
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
    run_dir: Path, table: Path, tmp_path: Path, words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = str(run_dir / "tune" / "journal.log")
    assert main(options(table, tmp_path / "run", "--tune.storage", journal, *words.split())) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"was made with other parameters ({told}); give another --tune.study" in line


def test_a_study_of_another_table_is_refused(
    run_dir: Path, make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_table(tmp_path / "table", seed=1)
    argv = options(other, tmp_path / "run", "--tune.storage", str(run_dir / "tune" / "journal.log"))
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
    table: Path, tmp_path: Path, storage: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, tmp_path / "run", "--tune.storage", storage)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert told in line
    assert "secret" not in line


def test_a_journal_that_is_none_is_told(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("hello\nworld\n")
    argv = options(table, tmp_path / "run", "--tune.storage", str(tmp_path / "notes.txt"))
    assert main(argv) == 2
    assert "notes.txt is not a journal of optuna, or is damaged" in capsys.readouterr().err


def test_trials_are_compared_by_the_reward_of_the_run(table: Path) -> None:
    opened = OutcomeTable.open(table)
    split = opened.split("validation")
    run = parse(RunConfig, ["--reward.alpha", "2", "--reward.gamma", "0.5"], "tune", "")
    always = np.ones(len(split), dtype=np.int64)
    figures = Yardstick(opened, run)(always)
    extra = (split.latency_ms[:, 1] - split.latency_ms[:, 0]) / opened.header.latency_unit_ms
    expected = split.score[:, 1] - 2 * extra - 0.5 * (split.retention_set >= 0)
    assert figures["tune/utility"] == pytest.approx(expected.mean(), abs=1e-6)
    assert figures["tune/accuracy"] == pytest.approx(split.score[:, 1].mean(), abs=1e-6)
    assert figures["tune/usage"] == 1.0
