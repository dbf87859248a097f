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

LEARNED = ("ppo_lagrangian", "exact_gradient")
"""Policies that are ours; all others are there to compare with."""
STYLES = {
    "ppo_lagrangian": ("PPO-Lagrangian", "#D55E00", "o"),
    "exact_gradient": ("exact gradient", "#CC79A7", "o"),
    "certified": ("certified gates", "#E69F00", "h"),
    "as_trained": ("as trained", "#D55E00", "X"),
    "oracle": ("cost-aware oracle", "#009E73", "*"),
    "oracle_score": ("oracle, any price", "#009E73", "P"),
    "mlp": ("supervised MLP", "#0072B2", "p"),
    "knn": ("nearest neighbours", "#0072B2", "H"),
    "logistic": ("logistic regression", "#0072B2", "d"),
    "type_majority": ("type majority", "#0072B2", "s"),
    "confidence": ("confidence", "#56B4E9", "D"),
    "entropy": ("entropy", "#56B4E9", "<"),
    "margin": ("margin", "#56B4E9", ">"),
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


def draw_pareto(
    curves: Mapping[str, Sequence[Figures]],
    points: Mapping[str, Figures],
    path: Path,
    title: str,
    marks: Mapping[str, Sequence[str | None]] | None = None,
) -> None:
    """Draw curves over alpha and the baselines that do not depend on it into a PNG.

    Args:
        curves: policy -> one `Figures` per alpha.
        points: baseline -> its figures.
        path: of the PNG.
        title: above it.
        marks: policy -> a word per point of its curve, such as "certified", or None; a point with a word gets a ring,
            and the words stand in the legend.
    """
    figure, axes = _canvas(title)
    if hull := hull_of(curves, points):
        axes.plot(hull[0], hull[1], color=INK, linewidth=1, label="hull of the learned policies", zorder=2)
    if {"always", "never"} <= points.keys():
        _mixtures(axes, points["never"], points["always"])
    for name, figures in points.items():
        _point(axes, name, figures)
    for name, curve in curves.items():
        _curve(axes, name, sorted(curve, key=lambda figures: mean_of(figures, "latency_ms")))
    _rings(axes, curves, marks or {})
    _finish(figure, axes, path)


def hull_of(
    curves: Mapping[str, Sequence[Figures]], points: Mapping[str, Figures]
) -> tuple[list[float], list[float]] | None:
    """Return latencies and accuracies (%) of the hull of the learned curves, never and always; None without a curve.

    Every point on it is reached by tossing a coin between two policies.
    """
    import numpy as np

    from agents.metrics.routing import upper_hull

    ours = [figures for name in LEARNED for figures in curves.get(name, ())]
    if not ours:
        return None
    ours += [points[name] for name in ("never", "always") if name in points]
    latency, accuracy = (np.array([mean_of(figures, name) for figures in ours]) for name in ("latency_ms", "accuracy"))
    x, y = upper_hull(latency, 100 * accuracy)
    return x.tolist(), y.tolist()


def blank(size: tuple[float, float], panels: int = 1, dpi: int = 160) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of `size` inches with panels side by side, drawn as all pictures here are."""
    # The object interface, not pyplot: no global state, and no window system is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    found = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in found:
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        axes.tick_params(colors=INK, length=0)
    return figure, found


def _canvas(title: str) -> tuple[Figure, Axes]:
    figure, (axes,) = blank((8.4, 5.0))
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=12)
    axes.set_xlabel("mean latency per question (ms)", color=INK)
    axes.set_ylabel("accuracy (%)", color=INK)
    return figure, axes


def _mixtures(axes: Axes, never: Figures, always: Figures) -> None:
    """Draw what tossing a coin between never and always gives: a policy must lie above this line."""
    latency = [mean_of(figures, "latency_ms") for figures in (never, always)]
    accuracy = [100 * mean_of(figures, "accuracy") for figures in (never, always)]
    axes.plot(latency, accuracy, color="#999999", linewidth=1, linestyle=(0, (2, 3)), zorder=1)


def _point(axes: Axes, name: str, figures: Figures) -> None:
    label, colour, marker = STYLES.get(name, (name, "#CC79A7", "P"))
    main = name in LEARNED
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
    latency = [mean_of(figures, "latency_ms") for figures in curve]
    accuracy = [100 * mean_of(figures, "accuracy") for figures in curve]
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
        linewidth=2 if name in LEARNED else 1.4,
        linestyle="-" if name in LEARNED else "--",
        zorder=5 if name in LEARNED else 2,
    )


def _rings(axes: Axes, curves: Mapping[str, Sequence[Figures]], marks: Mapping[str, Sequence[str | None]]) -> None:
    """Put a ring around every marked point, one entry of the legend per word."""
    words: dict[str, list[Figures]] = {}
    for name, told in marks.items():
        for figures, word in zip(curves[name], told, strict=True):
            if word:
                words.setdefault(word, []).append(figures)
    for number, (word, marked) in enumerate(words.items()):
        axes.plot(
            [mean_of(figures, "latency_ms") for figures in marked],
            [100 * mean_of(figures, "accuracy") for figures in marked],
            label=word,
            linestyle="none",
            marker="o",
            markersize=14 + 4 * number,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.4,
            zorder=6,
        )


def mean_of(figures: Figures, metric: str) -> float:
    """Return the mean of a metric that every question counts for."""
    return _of(figures, metric)["mean"]


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
