"""Show what a configuration's model is made of: parameters and memory of every part; nothing is loaded or downloaded.

python -m safe_rl.describe
python -m safe_rl.describe --config configs/llava-1.5-7b.yaml
python -m safe_rl.describe --config configs/llava-1.5-7b.yaml --model.fusion.kind block --json
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from safe_rl.command import Advice, run
from safe_rl.config import DescribeRun

if TYPE_CHECKING:
    from supervised.describing import Description

HEADINGS = ("part", "what", "parameters", "trainable", "numbers", "MB", "read from")
RIGHT = {"parameters", "trainable", "MB"}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.describe`; return the exit code."""
    return run(
        describe,
        DescribeRun,
        argv,
        name="describe",
        description=__doc__,
        folder=lambda config: "",
        advice=Advice(again="the same command starts again", elsewhere=None, memory=None),
    )


def describe(config: DescribeRun) -> None:
    """Print the parts of the configuration's model."""
    from supervised.describing import describe as parts_of

    description = parts_of(config.model, config.stage_a.train_base)
    print(json.dumps(as_json(description), indent=2) if config.json else table(description))


def as_json(description: Description) -> dict[str, object]:
    """Return components and totals as plain values."""
    return {
        "components": [asdict(component) for component in description.components],
        "trainable": description.trainable,
        "frozen": description.frozen,
        "trainable_share": description.trainable_share,
        "overhead_mb": description.overhead_bytes / 1e6,
    }


def table(description: Description) -> str:
    """Return an aligned table with a row per component, and the totals below it; a MB is 10^6 bytes."""
    from supervised.describing import Component

    parts = description.components
    everything = Component("all", "", description.trainable, description.frozen, sum(p.bytes for p in parts), "", "")
    rows = [
        (
            each.part,
            each.what,
            f"{each.trainable + each.frozen:,}",
            f"{each.trainable:,}",
            each.dtype,
            f"{each.bytes / 1e6:,.1f}",
            each.origin,
        )
        for each in (*parts, everything)
    ]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if heading in RIGHT else cell.ljust(width)
            for heading, cell, width in zip(HEADINGS, row, widths, strict=True)
        ).rstrip()
        for row in (HEADINGS, *rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [
        "",
        f"Trainable: {100 * description.trainable_share:.3f} % of the base's parameters.",
        f"Beyond the base: {description.overhead_bytes / 1e6:,.1f} MB for adapter and encoder.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
