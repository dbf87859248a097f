"""Building the outcome table: both passes of the model over every question, part by part, continuing after a kill.

Processes that were launched together take a part each, turn by turn; the main one alone writes the table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.answering import Answerer
from envs.config import OutcomesConfig
from envs.cost import PROFILE, LatencyProfile
from envs.flops import FLOPS_SAMPLES, count_flops
from envs.measure import gate_zero_is_exact, measure
from envs.outcomes import OutcomeTable
from envs.part_rows import PartRows, remove_rows, shares
from envs.passes import Passes
from envs.questions import Questions
from envs.table_format import Header
from envs.table_writer import TableWriter
from supervised.data.sample import Sample
from supervised.errors import DataError, TableError
from supervised.processes import Processes

if TYPE_CHECKING:
    from supervised.safe_model import SafeModel

Progress = Callable[[int, int], None]
"""Called with the questions done and the questions in all."""
MEASURED_SAMPLES = 32
_IDENTITY = ("cost_mode", "preview", "preview_bands", "feature_dtype", "max_new_tokens")
"""The part of the configuration that decides what the table says; the rest is speed and care."""
_PLACES = ("base", "base_revision", "encoder", "encoder_revision", "more_encoders", "device")
"""Where a model lies and runs; what it is, its hashes say."""


def build_table(
    model: SafeModel,
    splits: Mapping[str, Sequence[Sample]],
    config: OutcomesConfig,
    out_dir: Path | str,
    progress: Progress | None = None,
    data: Mapping[str, Any] | None = None,
    profile: LatencyProfile | None = None,
) -> OutcomeTable:
    """Build the outcome table of a model, or go on with it where a build was killed; a finished one is opened.

    Args:
        model: Base, encoder and adapter, frozen.
        splits: The questions of each split: train, validation, calibration, test, or some of them.
        config: How to build.
        out_dir: The folder of the table.
        progress: Called after every batch.
        data: A description of the data; a table of other data is not continued.
        profile: Latencies measured elsewhere; None: measured here, once, and stored with the table.

    Raises:
        ConfigError: a budget asks for more audio tokens than the adapter makes.
        TableError: `out_dir` holds the table of another model, configuration or data; or there is no question.
        DataError: a picture or a clip cannot be read and `on_error` is stop.
        OSError: the disk is full; the parts written so far stay.
    """
    questions = Questions(splits)
    provenance = table_provenance(model, config, questions.sizes, data)
    directory = Path(out_dir)
    processes = Processes.current()
    processes.same(provenance, "what the table is made from")
    writer: TableWriter | None = None
    ahead: list[Sample] = []

    def begin() -> dict[str, Any]:
        nonlocal writer
        ahead.extend(_first_loaded(model, questions, config, MEASURED_SAMPLES))
        passes = Passes(model, config, LatencyProfile.free())
        widths = {name: array.shape[1] for name, array in passes.base(ahead[:1]).features.items()}
        header = Header(passes.actions, widths, provenance=provenance, action_tokens=passes.tokens)
        writer = TableWriter(directory, header)
        known = None if writer.finished else _one_profile(model, ahead, config, writer, profile)
        return {"position": writer.position, "profile": None if known is None else known.as_json()}

    told = processes.by_main(begin)  # one process measures, while the others do nothing
    if told["profile"] is not None:
        passes = Passes(model, config, LatencyProfile(**told["profile"]))
        origin = hashlib.sha256(json.dumps([provenance, told["profile"]], sort_keys=True).encode()).hexdigest()
        _Builder(passes, questions, directory, processes, progress).build(told["position"], writer, origin)

    def finish() -> None:
        assert writer is not None  # the main process opened it
        if not writer.finished:
            remove_rows(directory)
            compared = _first_loaded(model, questions, config, config.exact_samples)
            writer.finish(
                provenance={
                    "gate_zero_bit_exact": gate_zero_is_exact(model, compared, config),
                    "gate_zero_samples": len(compared),
                    "flops": count_flops(model, ahead[:FLOPS_SAMPLES], config),
                    "latency_profile": told["profile"],
                    "software": {name: version(name) for name in ("torch", "transformers", "numpy")},
                }
            )

    processes.by_main(finish)
    return OutcomeTable.open(directory)


def _one_profile(
    model: SafeModel,
    ahead: list[Sample],
    config: OutcomesConfig,
    writer: TableWriter,
    given: LatencyProfile | None,
) -> LatencyProfile:
    """Return the profile that all rows are timed by: one table, one profile, so that latencies stay comparable."""
    path = writer.directory / PROFILE
    if writer.position > 0:
        if not path.is_file():
            raise TableError(
                f"{path} is missing, but the {writer.position} questions done so far were timed by it; "
                f"restore it, or delete {writer.directory} to build anew."
            )
        return LatencyProfile.load(path)
    profile = given or measure(model, ahead, config)
    profile.save(path)
    return profile


def table_provenance(
    model: SafeModel, config: OutcomesConfig, sizes: Mapping[str, int], data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a table of this model, configuration and data says about its origin; see `OutcomeTable.require`."""
    fingerprint = dict(model.fingerprint())
    fingerprint["config"] = {name: value for name, value in fingerprint["config"].items() if name not in _PLACES}
    values = asdict(config)
    return {
        "model": fingerprint,
        "config": {name: values[name] for name in _IDENTITY} | ({"budgets": config.budgets} if config.budgets else {}),
        "data": {**(data or {}), "questions": dict(sizes)},
    }


def _first_loaded(model: SafeModel, questions: Questions, config: OutcomesConfig, count: int) -> list[Sample]:
    """Return the first questions whose media can be read, loaded; damaged ones are the builder's to report."""
    passes = Passes(model, config, LatencyProfile.free())
    loaded: list[Sample] = []
    damage: DataError | None = None
    for index in range(len(questions)):
        if len(loaded) == count:
            break
        try:
            loaded.append(passes.load(questions[index][1]))
        except DataError as error:
            damage = damage or questions.located(index, error)
            if config.on_error == "stop":
                raise damage from None
    if not loaded:
        raise TableError(f"no question can be read; the first reason: {damage}")
    return loaded


class _Builder:
    """Answers the questions, each process its share, and writes them into the table, the main process alone."""

    def __init__(
        self,
        passes: Passes,
        questions: Questions,
        directory: Path,
        processes: Processes,
        progress: Progress | None,
    ) -> None:
        self.questions, self.directory, self.processes = questions, directory, processes
        self.answerer = Answerer(passes, questions)
        self.rows_per_part = passes.config.rows_per_part
        self.progress = progress if processes.main else None
        self.told = 0

    def build(self, position: int, writer: TableWriter | None, origin: str) -> None:
        """Compute and write the rows from `position` on, a part on each process at a time.

        Args:
            position: the first question that is not in the table.
            writer: of the table, on the main process.
            origin: what the rows are computed from, as a hash.
        """
        processes, total = self.processes, len(self.questions)
        while position < total:
            parts = shares(position, total, processes.count, self.rows_per_part, self.answerer.window)
            mine = parts[processes.rank]

            def tell(done: int, start: int = position, stop: int = parts[-1].stop) -> None:
                self._tell(min(start + done * processes.count, stop))  # as if the others were as far as this one

            with processes.together():
                rows = PartRows.load(self.directory, mine, origin) or self.answerer.rows(mine, tell)
                if processes.count > 1 and mine:
                    rows.save(self.directory, mine, origin)
            with processes.together():
                if writer is not None:
                    self._write(parts, {mine: rows}, writer, origin)
            position = parts[-1].stop
            self._tell(position)

    def _write(self, parts: Sequence[range], own: Mapping[range, PartRows], writer: TableWriter, origin: str) -> None:
        for places in filter(None, parts):
            rows = own.get(places) or PartRows.load(self.directory, places, origin)
            if rows is None:
                raise TableError(
                    f"{self.directory} lacks the rows that another process wrote for questions {places.start} to "
                    f"{places.stop - 1}; all processes need the same run_dir, on a file system that they share."
                )
            tensors, sets = rows.joined(writer.header.retention_sets)
            left_out = [*writer.header.provenance.get("left_out", []), *rows.left_out]
            writer.write_part(
                tensors, rows.records, position=places.stop, provenance={"left_out": left_out}, retention_sets=sets
            )
            remove_rows(self.directory, places)

    def _tell(self, done: int) -> None:
        if self.progress is not None and done > self.told:
            self.told = done
            self.progress(done, len(self.questions))
