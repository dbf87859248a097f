"""Pictures of a run (PNG): figures with 95 % intervals go in, accuracy against latency comes out.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), and every policy has a marker of its own, so that
nothing rests on colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from supervised.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = Mapping[str, float]
"""{"mean", "low", "high"}"""
Figures = Mapping[str, Interval | None]
"""Metric -> interval; None where the questions cannot tell it."""

STYLES = {
    "ppo_lagrangian": ("PPO-Lagrangian", "#D55E00", "o"),
    "oracle": ("oracle", "#009E73", "*"),
    "type_majority": ("type majority", "#0072B2", "s"),
    "confidence": ("confidence", "#56B4E9", "D"),
    "random": ("random, same usage", "#999999", "X"),
    "always": ("always", "#000000", "^"),
    "never": ("never (the base)", "#000000", "v"),
}
"""Policy -> label, colour, marker."""
INK = "#333333"
RULE = "#DDDDDD"


def draw_policies(policies: Mapping[str, Figures], path: Path, title: str) -> None:
    """Draw one point per policy, with intervals both ways, into a PNG."""
    figure, axes = _canvas(title)
    if {"always", "never"} <= policies.keys():
        _mixtures(axes, policies["never"], policies["always"])
    for name, figures in policies.items():
        _point(axes, name, figures)
    _finish(figure, axes, path)


def draw_pareto(curves: Mapping[str, Sequence[Figures]], points: Mapping[str, Figures], path: Path, title: str) -> None:
    """Draw curves over alpha (one `Figures` per alpha) and the baselines that do not depend on it into a PNG."""
    figure, axes = _canvas(title)
    if {"always", "never"} <= points.keys():
        _mixtures(axes, points["never"], points["always"])
    for name, figures in points.items():
        _point(axes, name, figures)
    for name, curve in curves.items():
        _curve(axes, name, sorted(curve, key=lambda figures: _of(figures, "latency_ms")["mean"]))
    _finish(figure, axes, path)


def _canvas(title: str) -> tuple[Figure, Axes]:
    # The object interface, not pyplot: no global state, and no window system is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.0), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=12)
    axes.set_xlabel("mean latency per question (ms)", color=INK)
    axes.set_ylabel("accuracy (%)", color=INK)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=INK, length=0)
    return figure, axes


def _mixtures(axes: Axes, never: Figures, always: Figures) -> None:
    """Draw what tossing a coin between never and always gives: a policy must lie above this line."""
    latency = [_of(figures, "latency_ms")["mean"] for figures in (never, always)]
    accuracy = [100 * _of(figures, "accuracy")["mean"] for figures in (never, always)]
    axes.plot(latency, accuracy, color="#999999", linewidth=1, linestyle=(0, (2, 3)), zorder=1)


def _point(axes: Axes, name: str, figures: Figures) -> None:
    label, colour, marker = STYLES.get(name, (name, "#CC79A7", "P"))
    main = name == "ppo_lagrangian"
    latency, accuracy = _of(figures, "latency_ms"), _of(figures, "accuracy")
    axes.errorbar(
        latency["mean"],
        100 * accuracy["mean"],
        xerr=_reach(latency, 1),
        yerr=_reach(accuracy, 100),
        label=label,
        color=colour,
        marker=marker,
        markersize=11 if marker == "*" else 9 if main else 7,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linestyle="none",
        elinewidth=1.2,
        capsize=2.5,
        zorder=4 if main else 3,
    )


def _curve(axes: Axes, name: str, curve: Sequence[Figures]) -> None:
    label, colour, marker = STYLES.get(name, (name, "#CC79A7", "P"))
    latency = [_of(figures, "latency_ms")["mean"] for figures in curve]
    accuracy = [100 * _of(figures, "accuracy")["mean"] for figures in curve]
    low = [100 * _of(figures, "accuracy")["low"] for figures in curve]
    high = [100 * _of(figures, "accuracy")["high"] for figures in curve]
    axes.fill_between(latency, low, high, color=colour, alpha=0.15, linewidth=0, zorder=1)
    axes.plot(
        latency,
        accuracy,
        label=label,
        color=colour,
        marker=marker,
        markersize=9 if marker == "*" else 6,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linewidth=2 if name == "ppo_lagrangian" else 1.4,
        linestyle="-" if name == "ppo_lagrangian" else "--",
        zorder=5 if name == "ppo_lagrangian" else 2,
    )


def _of(figures: Figures, metric: str) -> Interval:
    interval = figures[metric]
    assert interval is not None, f"every question counts for {metric}"
    return interval


def _reach(interval: Interval, scale: float) -> list[list[float]]:
    """Return the two arms of an error bar; a mean that rounding put outside of its interval has an arm of 0."""
    return [
        [max(0.0, scale * (interval["mean"] - interval["low"]))],
        [max(0.0, scale * (interval["high"] - interval["mean"]))],
    ]


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    axes.margins(0.08)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK)
    figure.text(
        1, 0, "95 % intervals; dotted: coin tosses between never and always ", ha="right", fontsize=7, color=INK
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
