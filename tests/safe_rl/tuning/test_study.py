"""Trials of a study are taken, given back and taken over; none is lost, none stands twice."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from safe_rl.config import RunConfig
from safe_rl.tuning.config import TuneConfig
from safe_rl.tuning.owner import SILENCE, Owner
from safe_rl.tuning.study import OWNER, TrialStudy, shown
from supervised.errors import ConfigError


@pytest.fixture(params=["journal", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> RunConfig:
    storage = f"sqlite:///{tmp_path / 'study.db'}" if request.param == "sqlite" else None
    return RunConfig(run_dir=str(tmp_path), tune=TuneConfig(trials=3, startup=2, batch=1, storage=storage))


def opened(config: RunConfig, fingerprint: str = "table") -> TrialStudy:
    return TrialStudy(config, fingerprint)


def gone() -> Owner:
    return replace(Owner.here(), born="1")


def test_every_trial_is_handed_out_once_and_the_total_is_kept(config: RunConfig) -> None:
    one, two, owner = opened(config), opened(config), Owner.here()
    first, second = one.take(owner), two.take(owner)
    assert first is not None
    assert second is not None
    assert [first[0].number, second[0].number] == [0, 1]
    assert one.take(owner) is None  # trial 2 is drawn from the results of 0 and 1
    assert one.finish(first[0], owner, TrialState.COMPLETE, [0.5])
    assert two.finish(second[0], owner, TrialState.COMPLETE, [0.6])
    third = two.take(owner)
    assert third is not None
    assert [trial.number for trial in third[1]] == [0, 1]
    assert one.take(owner) is None
    assert two.finish(third[0], owner, TrialState.FAIL)
    assert one.take(owner) is None
    assert one.finished() == 3
    assert [trial.number for trial in one.study.get_trials()] == [0, 1, 2]


def test_a_trial_that_is_put_back_is_taken_again_under_its_number(config: RunConfig) -> None:
    study, owner = opened(config), Owner.here()
    taken = study.take(owner)
    assert taken is not None
    study.put_back(0, owner)
    assert study.stored(0).state == TrialState.WAITING
    again = opened(config).take(owner)
    assert again is not None
    assert again[0].number == 0


def test_a_trial_whose_process_is_gone_is_taken_over_and_its_late_result_refused(config: RunConfig) -> None:
    study, late, heir = opened(config), gone(), Owner.here()
    lost = study.take(late)
    assert lost is not None
    other = opened(config)
    assert other.put_back_abandoned() == [0]
    assert other.put_back_abandoned() == []
    assert not study.finish(lost[0], late, TrialState.COMPLETE, [0.1])  # it waits
    found = other.take(heir)
    assert found is not None
    assert found[0].number == 0
    assert not study.finish(lost[0], late, TrialState.COMPLETE, [0.1])  # another runs it
    study.put_back(0, late)  # nor may he take it away
    assert other.finish(found[0], heir, TrialState.COMPLETE, [0.2])
    assert not study.finish(lost[0], late, TrialState.COMPLETE, [0.1])  # it is done
    assert [trial.value for trial in other.trials()] == [0.2]


def test_a_trial_of_a_process_that_is_there_is_left_alone(config: RunConfig) -> None:
    study = opened(config)
    assert study.take(Owner.here()) is not None
    assert opened(config).put_back_abandoned() == []


def test_an_owner_elsewhere_is_waited_for(config: RunConfig) -> None:
    study, elsewhere = opened(config), replace(Owner.here(), host="another")
    assert study.take(elsewhere) is not None
    assert study.put_back_abandoned() == []
    study.sign(0, time.time() - 2 * SILENCE)
    assert study.put_back_abandoned() == [0]
    assert study.stored(0).user_attrs[OWNER] is None


def test_a_trial_too_many_waits_until_the_study_grows(config: RunConfig) -> None:
    study, owner = opened(config), Owner.here()
    for _ in range(3):
        taken = study.take(owner)
        assert taken is not None
        study.finish(taken[0], owner, TrialState.COMPLETE, [0.5])
    extra = study.study.ask()  # as a process that counted at the same moment would
    study._set_waiting(extra.number)
    assert study.finished() == len(study.trials()) == 3
    assert study.take(owner) is None
    grown = opened(replace(config, tune=replace(config.tune, trials=4)))
    taken = grown.take(owner)
    assert taken is not None
    assert taken[0].number == 3


def test_a_study_of_other_parameters_or_another_table_is_refused(config: RunConfig) -> None:
    opened(config)
    with pytest.raises(
        ConfigError, match=r"other parameters \(tune\.seed 0 there, 1 here\); give another --tune\.stud"
    ):
        opened(replace(config, tune=replace(config.tune, seed=1)))
    with pytest.raises(ConfigError, match=r'\(table_sha256 "table" there, "other" here\)'):
        opened(config, "other")


def test_what_may_change_may_change(config: RunConfig) -> None:
    opened(config)
    opened(replace(config, seeds=9, tune=replace(config.tune, trials=9, workers=1)))


def test_a_study_that_somebody_else_made_is_refused(config: RunConfig) -> None:
    study = opened(config)
    optuna.create_study(storage=study.storage, study_name="theirs").ask()
    with pytest.raises(ConfigError, match=r"study 'theirs' in .* was not made by this command"):
        opened(replace(config, tune=replace(config.tune, study="theirs")))


def test_a_study_whose_maker_was_killed_before_he_signed_it_is_taken_over(config: RunConfig) -> None:
    study = opened(config)
    optuna.create_study(storage=study.storage, study_name="unsigned")
    again = replace(config, tune=replace(config.tune, study="unsigned"))
    assert opened(again).study.user_attrs["made_from"] == study.made_from


def test_a_study_that_is_not_there_is_told(config: RunConfig) -> None:
    opened(config)
    with pytest.raises(ConfigError, match=r"no study 'none' in .*\(there: safe_rl\)"):
        TrialStudy(replace(config, tune=replace(config.tune, study="none")), "table", create=False)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("runs/a/journal.log", "runs/a/journal.log"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("mysql://me:p@ss@host/db", "mysql://me@host/db"),
    ],
)
def test_a_password_is_not_shown(where: str, told: str) -> None:
    assert shown(where) == told


def test_a_trial_that_another_process_left_beyond_the_total_is_not_run(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, owner = opened(config), Owner.here()
    for _ in range(3):
        taken = study.take(owner)
        assert taken is not None
        study.finish(taken[0], owner, TrialState.COMPLETE, [0.5])
    monkeypatch.setattr(study, "_one_is_ready", lambda: True)  # as it was before another process took the last one
    assert study.take(owner) is None
    assert study.stored(3).state == TrialState.WAITING
    assert study.finished() == len(study.trials()) == 3
