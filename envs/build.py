"""Building the outcome table: both passes of the model over every question, part by part, continuing after a kill.

Questions are taken in windows; within a window they are put into batches of one prompt length, so that nothing is
padded, pictures are encoded once for both passes, and a clip that several questions share is encoded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.config import OutcomesConfig
from envs.cost import PROFILE, LatencyProfile
from envs.flops import FLOPS_SAMPLES, count_flops
from envs.measure import gate_zero_is_exact, measure
from envs.outcomes import OutcomeTable
from envs.passes import BasePass, Passes, UsePass
from envs.table_format import TABLE_SPLITS, Header
from envs.table_writer import TableWriter
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError, TableError

if TYPE_CHECKING:
    from supervised.safe_model import SafeModel

Progress = Callable[[int, int], None]
"""Called with the questions done and the questions in all."""
WINDOW_BATCHES = 8
"""Batches whose media are in memory at once; the larger, the fewer batches that are not full."""
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
    questions = _Questions(splits)
    provenance = table_provenance(model, config, questions.sizes, data)
    directory = Path(out_dir)
    ahead = _first_loaded(model, questions, config, MEASURED_SAMPLES)
    passes = Passes(model, config, LatencyProfile.free())
    widths = {name: array.shape[1] for name, array in passes.base(ahead[:1]).features.items()}
    writer = TableWriter(directory, Header(passes.actions, widths, provenance=provenance, action_tokens=passes.tokens))
    if writer.finished:
        return OutcomeTable.open(directory)
    if writer.position > 0:  # one table, one profile: latencies stay comparable
        if not (directory / PROFILE).is_file():
            raise TableError(
                f"{directory / PROFILE} is missing, but the {writer.position} questions done so far were timed by it; "
                f"restore it, or delete {directory} to build anew."
            )
        profile = LatencyProfile.load(directory / PROFILE)
    else:
        profile = profile or measure(model, ahead, config)
        profile.save(directory / PROFILE)
    builder = _Builder(Passes(model, config, profile), questions, writer, progress)
    while writer.position < len(questions):
        builder.build_part()
    compared = _first_loaded(model, questions, config, config.exact_samples)
    writer.finish(
        provenance={
            "gate_zero_bit_exact": gate_zero_is_exact(model, compared, config),
            "gate_zero_samples": len(compared),
            "flops": count_flops(model, ahead[:FLOPS_SAMPLES], config),
            "latency_profile": profile.as_json(),
            "software": {name: version(name) for name in ("torch", "transformers", "numpy")},
        }
    )
    return OutcomeTable.open(directory)


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


class _Questions(Sequence[tuple[int, Sample]]):
    """All splits one after the other: split code and sample."""

    def __init__(self, splits: Mapping[str, Sequence[Sample]]) -> None:
        unknown = set(splits) - set(TABLE_SPLITS)
        if unknown:
            raise TableError(f"splits {sorted(unknown)} are unknown; allowed: {', '.join(TABLE_SPLITS)}.")
        self.parts = [(code, splits[name]) for code, name in enumerate(TABLE_SPLITS) if splits.get(name)]
        self.sizes = {TABLE_SPLITS[code]: len(samples) for code, samples in self.parts}
        if not self.parts:
            raise TableError("a table needs at least one question, got none; check the data and its splits.")

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, index: Any) -> Any:
        for code, samples in self.parts:
            if index < len(samples):
                return code, samples[index]
            index -= len(samples)
        raise IndexError(index)


def _first_loaded(model: SafeModel, questions: _Questions, config: OutcomesConfig, count: int) -> list[Sample]:
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
            damage = damage or error
            if config.on_error == "stop":
                raise
    if not loaded:
        raise TableError(f"no question can be read; the first reason: {damage}")
    return loaded


@dataclass
class _Rows:
    """Rows of a part in the making, by their place in it."""

    tensors: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)


class _Builder:
    """Writes the next part of a table."""

    def __init__(self, passes: Passes, questions: _Questions, writer: TableWriter, progress: Progress | None) -> None:
        self.passes, self.questions, self.writer, self.progress = passes, questions, writer, progress
        self.config = passes.config
        self.sets = list(writer.header.retention_sets)
        self.left_out: list[dict[str, str]] = list(writer.header.provenance.get("left_out", []))

    def build_part(self) -> None:
        """Compute and write the rows from the writer's position on."""
        start = self.writer.position
        stop = min(start + self.config.rows_per_part, len(self.questions))
        window = self.config.batch_size * WINDOW_BATCHES
        rows = _Rows()
        for first in range(start, stop, window):
            self._window(range(first, min(first + window, stop)), rows)
        places = sorted(rows.records)
        tensors = (
            {name: np.stack([rows.tensors[place][name] for place in places]) for name in rows.tensors[places[0]]}
            if places
            else {}
        )
        self.writer.write_part(
            tensors,
            [rows.records[place] for place in places],
            position=stop,
            provenance={"left_out": self.left_out},
            retention_sets=self.sets,
        )

    def _window(self, places: range, rows: _Rows) -> None:
        loaded: dict[int, tuple[int, Sample]] = {}
        clips: dict[object, tuple[object, Waveform]] = {}
        for place in places:
            sample_id = f"question {place}"
            try:
                code, sample = self.questions[place]
                sample_id = sample.id
                loaded[place] = (code, self.passes.load(sample, clips))
            except DataError as error:
                if self.config.on_error == "stop":
                    raise
                self.left_out.append({"id": sample_id, "reason": str(error)})
        encoded: dict[int, Any] = {}
        done = places.start + len(places) - len(loaded)
        for batch in self._batches(loaded):
            samples = [loaded[place][1] for place in batch]
            audio = self.passes.encode(samples, encoded)
            base = self.passes.base(samples, audio)
            uses = self.passes.uses(base, audio)
            for row, place in enumerate(batch):
                rows.tensors[place], rows.records[place] = self._row(base, uses, row, loaded[place][0])
            done += len(batch)
            if self.progress is not None:
                self.progress(done, len(self.questions))

    def _batches(self, loaded: Mapping[int, tuple[int, Sample]]) -> Iterator[list[int]]:
        """Yield places in batches of one prompt length (pictures of one size give prompts of one length)."""
        buckets: dict[tuple[Any, ...], list[int]] = {}
        tokenizer = self.passes.model.processor.tokenizer
        places = list(loaded)
        if not places:
            return
        questions = tokenizer([loaded[place][1].question for place in places], add_special_tokens=False)["input_ids"]
        for place, ids in zip(places, questions, strict=True):
            image = loaded[place][1].image
            size = getattr(image, "size", None)
            buckets.setdefault((len(ids), size), []).append(place)
        for bucket in buckets.values():
            for first in range(0, len(bucket), self.config.batch_size):
                yield bucket[first : first + self.config.batch_size]

    def _row(
        self, base: BasePass, uses: Sequence[UsePass], row: int, code: int
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        sample = base.samples[row]
        outcomes: list[BasePass | UsePass] = [base, *uses]
        if sample.retention_set is not None and sample.retention_set not in self.sets:
            self.sets.append(sample.retention_set)
        tensors = {name: values[row] for name, values in base.features.items()}
        tensors |= {
            "score": np.array([outcome.score[row] for outcome in outcomes], dtype=np.float32),
            "latency_ms": np.array([outcome.latency_ms[row] for outcome in outcomes], dtype=np.float32),
            "retention_set": np.array(
                -1 if sample.retention_set is None else self.sets.index(sample.retention_set), dtype=np.int16
            ),
            "group": np.array(group_id(sample), dtype=np.int64),
            "split": np.array(code, dtype=np.uint8),
        }
        record = {
            "id": sample.id,
            "question": sample.question,
            "answers": list(sample.answers),
            "type": sample.type,
            "predictions": [outcome.answers[row] for outcome in outcomes],
        }
        return tensors, record


def group_id(sample: Sample) -> int:
    """Return the cluster of a sample as a number >= 0; a sample without a group is its own."""
    digest = hashlib.blake2b((sample.group or f"id:{sample.id}").encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
