"""Import a public dataset: its own published files become a manifest that every other command reads.

python -m safe_rl.import_data music_avqa --root data/music_avqa --media data/music_avqa/videos --out music_avqa.jsonl
python -m safe_rl.import_data vqav2 --root data/vqav2 --out vqav2.jsonl --split val
python -m safe_rl.import_data audiocaps --root data/audiocaps --out audiocaps.jsonl --on_error skip

Beside the manifest stand a report (.report.json) and what was left out, row by row (.left_out.jsonl).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from safe_rl.command import Advice, run
from supervised.data.importers.config import ImportConfig

if TYPE_CHECKING:
    from supervised.data.importers.importing import Report

MOST = 12
"""Lines that a count by type, or by reason, prints at most; the report has all."""


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.import_data`; return the exit code."""
    return run(
        import_data,
        ImportConfig,
        named(sys.argv[1:] if argv is None else argv),
        name="import_data",
        description=__doc__,
        folder=lambda config: "",
        advice=Advice(again="the same command starts again", elsewhere="--out", memory=None),
    )


def named(argv: list[str]) -> list[str]:
    """Return the arguments with a first word that is no option as the dataset's name."""
    return ["--dataset", *argv] if argv and not argv[0].startswith("-") else argv


def import_data(config: ImportConfig) -> None:
    """Write the manifest and print what went into it and what did not."""
    from supervised.data.importers.importing import import_dataset

    report = import_dataset(config)
    print("\n".join(_told(report)))
    print(f"Manifest: {config.out} ({report.splits.total():,} questions, {config.dataset})")
    if empty := [name for name in ("adapter", "train", "validation", "calibration", "test") if not report.splits[name]]:
        anew = ", or divide it anew with --splits group" if config.splits == "own" else ""
        print(
            f"warning: no question in {', '.join(empty)}; import more of the dataset's splits{anew}.", file=sys.stderr
        )
    if report.left_out:
        place = Path(config.out).with_suffix(".left_out.jsonl")
        print(f"warning: {len(report.left_out):,} left out; {place} says which and why.", file=sys.stderr)


def _told(report: Report) -> list[str]:
    """Return the counts as lines."""
    counts = report.as_json()
    lines = ["split          questions    groups"]
    lines += [
        f"{name:<12} {count:>11,} {counts['groups'][name]:>9,}" for name, count in counts["splits"].items() if count
    ]
    for title, name in (
        ("own split", "own_splits"),
        ("type", "types"),
        ("retention set", "retention_sets"),
        ("left out because", "left_out"),
    ):
        if not counts[name]:
            continue
        lines += ["", f"{title}:"]
        ordered = sorted(counts[name].items(), key=lambda pair: -pair[1])
        lines += [f"{count:>11,}  {key}" for key, count in ordered[:MOST]]
        if len(ordered) > MOST:
            lines.append(f"{sum(count for _, count in ordered[MOST:]):>11,}  {len(ordered) - MOST} more")
    return lines


if __name__ == "__main__":
    sys.exit(main())
