"""Pictures to be asked (HTML): figures with 95 % intervals go in, accuracy against latency comes out.

One file that holds all it needs, so that it opens offline; pointing at a policy shows every figure it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.pictures import INK, LEARNED, RULE, STYLES, Figures, hull_of, mean_of
from supervised.files import write_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SYMBOLS = {
    "h": "hexagon2",
    "o": "circle",
    "*": "star",
    "P": "cross",
    "p": "pentagon",
    "H": "hexagon",
    "d": "diamond-tall",
    "s": "square",
    "D": "diamond",
    "<": "triangle-left",
    ">": "triangle-right",
    "X": "x",
    "^": "triangle-up",
    "v": "triangle-down",
}
"""matplotlib's marker -> plotly's."""


def draw_interactive(
    curves: Mapping[str, Sequence[Figures]],
    points: Mapping[str, Figures],
    path: Path,
    title: str,
    labels: Sequence[str] | None = None,
    marks: Mapping[str, Sequence[str | None]] | None = None,
) -> None:
    """Draw curves over alpha, their hull and the baselines that do not depend on alpha into an HTML file.

    Args:
        curves: policy -> one `Figures` per alpha.
        points: policy -> its figures.
        path: of the HTML file.
        title: above it.
        labels: what tells the points of a curve apart, such as "alpha 0.3"; one per point.
        marks: policy -> a word per point of its curve, such as "certified", or None; a point with a word gets a ring.
    """
    from plotly.graph_objects import Figure

    figure = Figure()
    if {"never", "always"} <= points.keys():
        ends = [points["never"], points["always"]]
        _line(figure, *_places(ends), "coin tosses between never and always", dash="dot", colour="#999999")
    if hull := hull_of(curves, points):
        _line(figure, *hull, "hull of the learned policies", dash="solid", colour=INK)
    for name, curve in curves.items():
        words = (marks or {}).get(name) or [None] * len(curve)
        named = zip(curve, labels or [""] * len(curve), words, strict=True)
        _policy(figure, name, sorted(named, key=lambda point: mean_of(point[0], "latency_ms")))
    for name, figures in points.items():
        _policy(figure, name, [(figures, "", None)])
    figure.update_layout(
        title=title,
        xaxis_title="mean latency per question (ms)",
        yaxis_title="accuracy (%)",
        template="plotly_white",
        font_color=INK,
        hoverlabel_align="left",
        hovermode="closest",
    )
    figure.update_xaxes(gridcolor=RULE)
    figure.update_yaxes(gridcolor=RULE)
    page = figure.to_html(include_plotlyjs=True, full_html=True, div_id="picture", config={"displaylogo": False})
    write_text(path, page)


def _policy(figure: Figure, name: str, curve: Sequence[tuple[Figures, str, str | None]]) -> None:
    """Add one policy: its points, joined where there are several, with intervals, rings and what pointing shows."""
    from plotly.graph_objects import Scatter

    label, colour, marker = STYLES.get(name, (name, "#CC79A7", "P"))
    latency, accuracy = _places([figures for figures, _, _ in curve])
    main = name in LEARNED
    figure.add_trace(
        Scatter(
            x=latency,
            y=accuracy,
            name=label,
            mode="lines+markers" if len(curve) > 1 else "markers",
            text=[_told(label, *point) for point in curve],
            hovertemplate="%{text}<extra></extra>",
            line={"color": colour, "width": 3 if main else 1.5, "dash": "solid" if main else "dash"},
            marker={"color": colour, "symbol": _SYMBOLS[marker], "size": 11 if main else 9},
            error_x=_arms([figures for figures, _, _ in curve], "latency_ms", 1),
            error_y=_arms([figures for figures, _, _ in curve], "accuracy", 100),
        )
    )
    for word in dict.fromkeys(word for _, _, word in curve if word):
        ringed = [place for place, (_, _, told) in enumerate(curve) if told == word]
        figure.add_trace(
            Scatter(
                x=[latency[place] for place in ringed],
                y=[accuracy[place] for place in ringed],
                name=f"{label}: {word}",
                mode="markers",
                hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 20, "color": INK, "line": {"width": 2}},
            )
        )


def _line(
    figure: Figure, latency: Sequence[float], accuracy: Sequence[float], name: str, dash: str, colour: str
) -> None:
    from plotly.graph_objects import Scatter

    line = {"color": colour, "width": 1, "dash": dash}
    figure.add_trace(Scatter(x=latency, y=accuracy, name=name, mode="lines", line=line, hoverinfo="skip"))


def _told(label: str, figures: Figures, which: str, word: str | None) -> str:
    """Return every figure of a point, one to a line."""
    lines = [f"<b>{', '.join(filter(None, [label, which, word]))}</b>"]
    for name, interval in figures.items():
        if interval is not None:
            lines.append(f"{name}: {interval['mean']:.4g} ({interval['low']:.4g} to {interval['high']:.4g})")
    return "<br>".join(lines)


def _places(curve: Sequence[Figures]) -> tuple[list[float], list[float]]:
    """Return latencies in ms and accuracies in %."""
    return [mean_of(point, "latency_ms") for point in curve], [100 * mean_of(point, "accuracy") for point in curve]


def _arms(curve: Sequence[Figures], metric: str, scale: float) -> dict[str, Any]:
    """Return plotly's description of the intervals."""
    intervals = [figures[metric] or {"mean": 0.0, "low": 0.0, "high": 0.0} for figures in curve]
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * max(interval["high"] - interval["mean"], 0.0) for interval in intervals],
        "arrayminus": [scale * max(interval["mean"] - interval["low"], 0.0) for interval in intervals],
        "thickness": 1,
        "width": 3,
    }
