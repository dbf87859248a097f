"""Pictures of a study (PNG): what every trial was worth, the front of accuracy and latency, and which setting counts.

Whether a trial keeps the limits is told by its marker, filled or hollow, and not by its colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safe_rl.pictures import INK, blank
from safe_rl.tuning.report import Row, front_of
from safe_rl.tuning.trials import FAR
from supervised.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = Callable[[Row], tuple[float, float]]
GOOD, PALE, OWN = "#0072B2", "#999999", "#D55E00"
"""Okabe and Ito: blue, grey, vermilion."""


def draw_history(path: Path, rows: Sequence[Row], objective: str, best: Row | None) -> None:
    """Draw the value of every trial against its number, and the best feasible one so far."""
    figure, (axes,) = _canvas(1, f"Trials of the study: validation {objective}")
    axes.set_xlabel("trial", color=INK)
    axes.set_ylabel(objective, color=INK)
    _scatter(axes, rows, lambda row: (row.number, row.figures[objective]))
    pruned = [(row.number, row.last_report) for row in rows if row.state == "pruned"]
    reported = [(number, value) for number, value in pruned if value is not None and value > FAR]
    if reported:
        x, y = zip(*reported, strict=True)
        axes.scatter(x, y, marker="x", color=PALE, s=28, label="pruned, last report", zorder=2)
    feasible = [row for row in rows if row.feasible]
    so_far = [max(row.figures[objective] for row in feasible[: i + 1]) for i in range(len(feasible))]
    if feasible:
        last = max(row.number for row in rows)
        axes.step(
            [*(row.number for row in feasible), last],
            [*so_far, so_far[-1]],
            where="post",
            color=GOOD,
            linewidth=1.5,
            label="best that keeps the limits",
        )
    _mark(axes, best, lambda row: (row.number, row.figures[objective]))
    _finish(figure, [axes], path)


def draw_front(path: Path, rows: Sequence[Row], best: Row | None) -> None:
    """Draw accuracy against latency of every trial, and the front of those that keep the limits."""
    figure, (axes,) = _canvas(1, "Trials of the study: accuracy against latency, validation rows")
    axes.set_xlabel("mean latency per question (ms)", color=INK)
    axes.set_ylabel("accuracy (%)", color=INK)
    _scatter(axes, rows, _place)
    front = front_of(rows)
    axes.step(
        [row.figures["latency_ms"] for row in front],
        [100 * row.figures["accuracy"] for row in front],
        where="post",
        color=GOOD,
        linewidth=1.5,
        label="front",
    )
    _mark(axes, best, _place)
    _finish(figure, [axes], path)


def draw_importance(path: Path, importance: Mapping[str, Mapping[str, float]]) -> None:
    """Draw one bar per setting and objective."""
    figure, panels = _canvas(len(importance), "Share of the variance over trials that a setting explains")
    for axes, (objective, shares) in zip(panels, importance.items(), strict=True):
        order = sorted(shares, key=lambda key: shares[key])
        axes.barh(order, [100 * shares[key] for key in order], color=GOOD, height=0.7)
        axes.set_xlabel(f"of {objective} (%)", color=INK)
        axes.grid(axis="y", visible=False)
    _finish(figure, panels, path, legend=False)


def _place(row: Row) -> tuple[float, float]:
    return row.figures["latency_ms"], 100 * row.figures["accuracy"]


def _scatter(axes: Axes, rows: Sequence[Row], place: Place) -> None:
    kinds = {
        "keeps the limits": ([row for row in rows if row.feasible], GOOD, GOOD),
        "breaks a limit": ([row for row in rows if row.state == "complete" and not row.feasible], "none", PALE),
    }
    for label, (found, face, edge) in kinds.items():
        if found:
            x, y = zip(*map(place, found), strict=True)
            axes.scatter(x, y, marker="o", facecolors=face, edgecolors=edge, s=32, label=label, zorder=3)


def _mark(axes: Axes, best: Row | None, place: Place) -> None:
    if best is not None:
        axes.annotate(
            f"trial {best.number}", place(best), xytext=(6, 8), textcoords="offset points", fontsize=9, color=OWN
        )
        axes.scatter(*place(best), marker="o", facecolors="none", edgecolors=OWN, s=120, linewidths=1.6, zorder=4)


def _canvas(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    figure, found = blank((8.4, 5.0), panels)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    return figure, found


def _finish(figure: Figure, panels: Sequence[Axes], path: Path, legend: bool = True) -> None:
    if legend and panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(loc="lower right", frameon=False, labelcolor=INK)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
