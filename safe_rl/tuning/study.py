"""The study behind a search: opened or made in its storage, guarded against strangers, its trials handed out.

A study holds exactly the trials 0, 1, ..., N - 1. One that is interrupted, or whose process is gone, goes back to
waiting and is taken again under its own number; what it draws and gives does not depend on who takes it (see
`safe_rl.tuning.batches`), so nothing is lost, and nothing stands twice.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from safe_rl.config import RunConfig
from safe_rl.options import to_dict
from safe_rl.training import given_table, what_matters
from safe_rl.tuning.batches import Drawn, directions, earlier_trials
from safe_rl.tuning.config import TuneConfig
from safe_rl.tuning.journal import open_journal
from safe_rl.tuning.owner import SILENCE, Owner, is_gone
from supervised.differences import differences
from supervised.errors import ConfigError

ORIGIN, OWNER, BEAT, REASON = "made_from", "owner", "beat", "reason"
"""User attributes: of the study, and of its trials."""
OPENINGS = 10
"""Attempts at opening a database whose tables are just being made."""
FREE = ("trials", "workers", "storage", "study")
"""Keys of `tune` that may change while a study grows."""


def origin(config: RunConfig) -> dict[str, Any]:
    """Return what makes a study what it is, but for its table."""
    tune = {key: value for key, value in to_dict(config.tune).items() if key not in FREE}
    return what_matters(config) | {"tune": tune}


def known_origin(config: RunConfig) -> dict[str, Any]:
    """Return the same with the hash of the table, where the configuration names one that is there."""
    return origin(config) | given_table(config)


class TrialStudy:
    """A study and its storage.

    Args:
        config: of the run; `tune.storage` and `tune.study` say where the study lies.
        fingerprint: of the table.
        create: whether to make the study if it is not there.

    Raises:
        ConfigError: the storage cannot be opened, or holds a study of another configuration, table or program.
    """

    def __init__(self, config: RunConfig, fingerprint: str, create: bool = True) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.tune: TuneConfig = config.tune
        self.name = config.tune.study
        self.sampler = Drawn()
        self.made_from = json.loads(json.dumps(origin(config) | {"table_sha256": fingerprint}))
        self.where = storage_of(config)
        if not (create or "://" in self.where or Path(self.where).is_file()):
            raise ConfigError(f"There is no study at {self.where} yet; run the command without --trial first.")
        self.storage = open_storage(self.where)
        names = [summary.study_name for summary in optuna.get_all_study_summaries(self.storage)]
        if self.name not in names:
            if not create:
                raise ConfigError(
                    f"There is no study {self.name!r} in {shown(self.where)}; run the command without --trial first, "
                    f"or name another --tune.study (there: {', '.join(sorted(names)) or 'none'})."
                )
            with suppress(DuplicatedStudyError):  # another process was faster
                optuna.create_study(
                    storage=self.storage, study_name=self.name, directions=directions(self.tune), sampler=self.sampler
                ).set_user_attr(ORIGIN, self.made_from)
        # Optuna would give a study of two objectives a sampler, and one of one objective a pruner, of its own.
        self.study: Study = optuna.load_study(
            study_name=self.name, storage=self.storage, sampler=self.sampler, pruner=optuna.pruners.NopPruner()
        )
        self.check()

    def check(self) -> None:
        """Refuse a study that was made with other parameters.

        Raises:
            ConfigError: names the first key that differs.
        """
        there = self.study.user_attrs.get(ORIGIN)
        if there is None:
            if self.study.get_trials(deepcopy=False):
                raise ConfigError(
                    f"The study {self.name!r} in {shown(self.where)} was not made by this command; give another "
                    f"--tune.study."
                )
            self.study.set_user_attr(ORIGIN, self.made_from)  # whoever created it was killed before he could
            return
        for key, theirs, ours in differences(there, self.made_from):
            raise ConfigError(
                f"The study {self.name!r} in {shown(self.where)} was made with other parameters ({key} "
                f"{json.dumps(theirs)} there, {json.dumps(ours)} here); give another --tune.study, or the parameters "
                f"it was made with."
            )

    # -- trials ---------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """Return the trials within the total, by number."""
        found = self.study.get_trials(deepcopy=False)
        return sorted((trial for trial in found if trial.number < self.tune.trials), key=lambda trial: trial.number)

    def finished(self) -> int:
        """Return how many trials are finished."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def take(self, owner: Owner) -> tuple[Trial, list[FrozenTrial]] | None:
        """Take the next trial whose earlier batches are finished; None: there is none at present.

        Returns:
            The trial, still without settings, and the trials of the batches before its own.
        """
        if not self._one_is_ready():
            return None
        trial = self.study.ask()  # one that waits, the lowest number first; else a new one
        # Another process may have taken the one that was seen: what came instead may be further on, or one too many.
        earlier = earlier_trials(self.study.get_trials(deepcopy=False), self.tune, trial.number)
        if trial.number >= self.tune.trials or earlier is None:
            self._set_waiting(trial.number)
            return None
        self.sign(trial.number, time.time())  # first, or the last owner's silence would count as the new one's
        trial.set_user_attr(OWNER, owner.to_dict())
        return trial, earlier

    def _one_is_ready(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        numbers = [trial.number for trial in trials if trial.state == TrialState.WAITING] or [len(trials)]
        number = min(numbers)
        return number < self.tune.trials and earlier_trials(trials, self.tune, number) is not None

    def finish(self, trial: Trial, owner: Owner, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Write the result of a trial; False: it has been given to somebody else meanwhile, and theirs counts."""
        if not self._owns(trial.number, owner):
            return False
        try:
            self.study.tell(trial, values=values, state=state)
        except (UpdateFinishedTrialError, ValueError):
            if self.stored(trial.number).state == TrialState.RUNNING:
                raise
            return False
        return True

    def put_back(self, number: int, owner: Owner) -> None:
        """Let a trial that could not be ended wait for whoever takes it next."""
        if self._owns(number, owner):
            self._set_waiting(number)

    def put_back_abandoned(self) -> list[int]:
        """Let the trials of processes that are gone wait; return their numbers."""
        numbers = [
            trial.number for trial in self.trials() if trial.state == TrialState.RUNNING and _is_abandoned(trial)
        ]
        for number in numbers:
            if _is_abandoned(latest := self.stored(number)) and latest.state == TrialState.RUNNING:
                self._set_waiting(number)
        return numbers

    def sign(self, number: int, at: float) -> None:
        """Write down that the owner of a trial was there at this time (Unix seconds)."""
        self.storage.set_trial_user_attr(self._id(number), BEAT, at)

    def _owns(self, number: int, owner: Owner) -> bool:
        trial = self.stored(number)
        return trial.state == TrialState.RUNNING and trial.user_attrs.get(OWNER) == owner.to_dict()

    def _set_waiting(self, number: int) -> None:
        identity = self._id(number)
        with suppress(UpdateFinishedTrialError):  # its owner was only slow
            self.storage.set_trial_user_attr(identity, OWNER, None)
            self.storage.set_trial_state_values(identity, TrialState.WAITING)

    def stored(self, number: int) -> FrozenTrial:
        """Return a trial as the storage has it now."""
        return self.storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, number)


def _is_abandoned(trial: FrozenTrial) -> bool:
    owner: Mapping[str, Any] | None = trial.user_attrs.get(OWNER)
    if owner is None:  # taken, and not signed yet: that takes milliseconds
        return trial.datetime_start is None or (datetime.now() - trial.datetime_start).total_seconds() > SILENCE
    return is_gone(dict(owner), trial.user_attrs.get(BEAT, 0.0))


def storage_of(config: RunConfig) -> str:
    """Return the journal file or database url of the study."""
    return config.tune.storage or str(Path(config.run_dir) / "tune" / "journal.log")


def open_storage(where: str) -> BaseStorage:
    """Open a journal file or a database.

    Raises:
        ConfigError: it cannot be opened, or is something else.
    """
    if "://" not in where:
        try:
            storage = open_journal(Path(where))
            optuna.get_all_study_summaries(storage)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"tune.storage: {where} is not a journal of optuna, or is damaged ({error}); give another path."
            ) from error
        return storage
    from sqlalchemy.exc import SQLAlchemyError

    # SQLite lets one process write at a time; the others wait for their turn.
    waits = {"connect_args": {"timeout": 60}} if where.startswith("sqlite") else {}
    attempts = OPENINGS
    while True:
        attempts -= 1
        try:
            return optuna.storages.RDBStorage(where, engine_kwargs=waits)
        except (SQLAlchemyError, ImportError, RuntimeError) as error:
            if attempts and re.search("already exists|UNIQUE|locked", str(error)):
                time.sleep(0.5)  # another process is making the tables
                continue
            told = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"tune.storage: {shown(where)} cannot be opened ({told}); give a path, or a database url such as "
                f"sqlite:///study.db."
            ) from error


def shown(where: str) -> str:
    """Return a storage without the password that its url may hold."""
    scheme, separator, rest = where.partition("://")
    if not separator or "@" not in rest:
        return where
    user, _, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{place}"
