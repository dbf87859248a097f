"""The final table of a run: policies with their figures and 95 % intervals go in, a table for people comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from safe_rl.pictures import LEARNED, STYLES, Figures, Interval

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "accuracy": ("accuracy %", 100, 1),
    "audio_accuracy": ("audio %", 100, 1),
    "retention_score": ("retention %", 100, 1),
    "drop": ("drop, points", 100, 2),
    "harm": ("harm %", 100, 2),
    "usage": ("usage %", 100, 1),
    "latency_ms": ("latency ms", 1, 2),
    "utility": ("utility", 1, 4),
}
"""Metric -> heading, factor, decimals."""


def show(policies: Mapping[str, Figures], title: str) -> None:
    """Print one row per policy to standard output."""
    print_table(table_of(policies, title), width=160)


def print_table(table: Table, width: int = 140) -> None:
    """Print a table to standard output, which may be a file: a narrow guess at its width would break every number.

    Args:
        table: to print.
        width: columns where there is no terminal that tells its own.
    """
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=width)).print(table)


def table_of(policies: Mapping[str, Figures], title: str) -> Table:
    """Return one row per policy; an interval stands below its mean."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("policy", no_wrap=True)
    for heading, _, _ in COLUMNS.values():
        table.add_column(heading, justify="right")
    for name, figures in policies.items():
        cells = [_cell(figures.get(metric), factor, places) for metric, (_, factor, places) in COLUMNS.items()]
        table.add_row(STYLES.get(name, (name,))[0], *cells, style="bold" if name in LEARNED else None)
    return table


def _cell(interval: Interval | None, factor: float, places: int) -> str:
    if interval is None:  # the split has no question that the metric counts
        return "-"
    mean, low, high = (f"{factor * interval[key]:.{places}f}" for key in ("mean", "low", "high"))
    return f"{mean}\n[not bold bright_black]{low} to {high}[/]"
