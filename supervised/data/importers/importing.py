"""The import of one dataset: its rows become samples, samples get one of our splits, and a report says what happened.

The files are walked twice, first for the splits of the groups and then for the samples, so that samples need not all be
in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from supervised.data.importers.choice import open_rows
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.rows import BadRow, LeftOut, Row, Rows
from supervised.data.importers.shares import ANEW, first_split, our_split
from supervised.data.importers.sounds import IrrelevantSounds
from supervised.data.manifest import write_manifest
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError
from supervised.files import write_json, write_text


@dataclass
class Report:
    """What an import gave and what it left out."""

    splits: Counter[str] = field(default_factory=Counter)
    """Our split -> questions."""
    own_splits: Counter[str] = field(default_factory=Counter)
    """The dataset's own split -> questions."""
    types: Counter[str] = field(default_factory=Counter)
    """Type -> questions."""
    retention_sets: Counter[str] = field(default_factory=Counter)
    """Retention set, or `none` -> questions."""
    groups: dict[str, set[str]] = field(default_factory=dict)
    """Our split -> its groups."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> rows left out."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """File and place, reason, and message, of every row left out."""

    def take(self, sample: Sample, own_split: str) -> None:
        """Count a sample."""
        self.splits[sample.split] += 1
        self.own_splits[own_split] += 1
        self.types[sample.type] += 1
        self.retention_sets[sample.retention_set or "none"] += 1
        self.groups.setdefault(sample.split, set()).add(sample.group)

    def leave_out(self, where: str, reason: str, message: str) -> None:
        """Count something that gives no sample."""
        self.reasons[reason] += 1
        self.left_out.append((where, reason, message))

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "questions": self.splits.total(),
            "splits": {name: self.splits[name] for name in SPLITS},
            "groups": {name: len(self.groups.get(name, ())) for name in SPLITS},
            "own_splits": dict(self.own_splits),
            "types": dict(sorted(self.types.items())),
            "retention_sets": dict(sorted(self.retention_sets.items())),
            "left_out": dict(self.reasons.most_common()),
        }


def import_dataset(config: ImportConfig) -> Report:
    """Write the manifest, its report and the list of what was left out; return the report.

    Each file is whole or as it was before; the manifest is written last.

    Raises:
        ConfigError: the folder is not there, or the dataset has no such variant.
        DataError: a file is missing or damaged, nothing can be used, or, unless `on_error` is `skip`, a row is faulty
            or its media are missing.
        OSError: a file cannot be written.
    """
    out, report = Path(config.out), Report()
    rows = open_rows(config)
    sounds = IrrelevantSounds(config.sounds, config.seed) if config.sounds is not None else None
    keeps = group_splits(rows, config) if config.splits == "own" else {}
    # A generator: the manifest is written while the rows are read, and replaced only when all went well.
    write_manifest(out, _written(rows, config, keeps, sounds, report))
    return report


def _written(
    rows: Rows, config: ImportConfig, keeps: dict[str, set[str]], sounds: IrrelevantSounds | None, report: Report
) -> Iterator[Sample]:
    """Yield the samples; then, before the manifest takes its place, write what stands beside it."""
    for sample in samples(rows, config, keeps, report):
        yield sounds.add(sample) if sounds is not None and sample.audio is None else sample
    if not report.splits:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in report.reasons.most_common(5))
        raise DataError(f"no question of {config.root} can be used: {reasons or 'the files are empty'}; correct them.")
    out = Path(config.out)
    write_json(out.with_suffix(".report.json"), {"import": asdict(config), **report.as_json()})
    lines = (
        json.dumps({"where": where, "reason": reason, "message": message}) + "\n"
        for where, reason, message in report.left_out
    )
    write_text(out.with_suffix(".left_out.jsonl"), "".join(lines))


def group_splits(rows: Rows, config: ImportConfig) -> dict[str, set[str]]:
    """Return group -> the own splits that have a usable question of it.

    Raises:
        DataError: as `import_dataset`.
    """
    found: dict[str, set[str]] = {}
    for row in rows:
        for sample in _try(rows, row, config, None):
            found.setdefault(sample.group, set()).add(row.split)
    return found


def samples(rows: Rows, config: ImportConfig, keeps: dict[str, set[str]], report: Report) -> Iterator[Sample]:
    """Yield the samples with our splits, and note them.

    Args:
        rows: the dataset.
        config: how it is imported.
        keeps: group -> the own splits that it has questions in; not used where questions are divided anew.
        report: takes in what was found and what was left out.
    """
    ids: set[str] = set()
    for row in rows:
        for sample in _try(rows, row, config, report):
            if sample.id in ids:
                _refuse(row, BadRow("doubled id", f"id {sample.id!r} stands twice; remove one."), config, report)
                continue
            ids.add(sample.id)
            split = _split(sample.group, row.split, rows, config, keeps)
            if split is None:
                first = first_split(keeps[sample.group], rows.shares)
                reason = f"its video or picture stands in the dataset's own split {first!r} as well"
                report.leave_out(row.where, reason, f"{sample.id}: group {sample.group}")
                continue
            divided = replace(sample, split=split)
            report.take(divided, row.split)
            yield divided


def _split(group: str, own: str, rows: Rows, config: ImportConfig, keeps: dict[str, set[str]]) -> str | None:
    """Return our split of a question; None: its group belongs to another one."""
    if config.splits == "group":
        return our_split(group, ANEW, config.seed)
    first = first_split(keeps[group], rows.shares)
    chosen = our_split(group, rows.shares[first], config.seed)
    return chosen if our_split(group, rows.shares[own], config.seed) == chosen else None


def _try(rows: Rows, row: Row, config: ImportConfig, report: Report | None) -> list[Sample]:
    """Return the samples of a row; none where it is left out."""
    try:
        return rows.samples(row)
    except LeftOut as reason:
        if report is not None:
            report.leave_out(row.where, str(reason), str(reason))
    except BadRow as error:
        _refuse(row, error, config, report)
    return []


def _refuse(row: Row, error: BadRow, config: ImportConfig, report: Report | None) -> None:
    """Stop at a faulty row, or count it."""
    if config.on_error == "stop":
        raise DataError(f"{row.where}: {error}") from None
    if report is not None:
        report.leave_out(row.where, error.kind, str(error))
