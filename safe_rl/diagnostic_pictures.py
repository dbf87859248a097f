"""Pictures of a diagnosis (PNG), one per diagnostic: the figures of `diagnostics.json` go in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.pictures import INK, blank
from supervised.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

AUDIO, RETENTION, THIRD = "#D55E00", "#0072B2", "#009E73"
"""Questions that need audio, questions that do not, and something else."""
KINDS = {"audio": ("need audio", AUDIO, "o"), "retention": ("retention", RETENTION, "s")}


def draw_all(figures: Mapping[str, Any], folder: Path) -> None:
    """Draw every diagnostic that there are figures for."""
    draw_gate_sweep(figures["gate_sweep"], folder / "gate_sweep.png")
    draw_delta_logits(figures["delta_logits"], folder / "delta_logits.png")
    draw_cka(figures["cka"], folder / "cka.png")
    draw_alignment(figures["alignment"], folder / "alignment.png")
    draw_monitors(figures["monitors"], folder / "monitors.png")
    if figures["attention"]:
        draw_attention(figures["attention"], folder / "attention.png")
        draw_residual(figures["residual"], figures["training"], folder / "residual.png")


def draw_gate_sweep(sweep: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw accuracy on both kinds of question, and the drop, over the gate."""
    figure, (left, right) = _canvas("Gate sweep: what a gate gains and costs", 2)
    gates = [row["gate"] for row in sweep]
    for metric, label, colour, marker in (
        ("audio_accuracy", "need audio", AUDIO, "o"),
        ("retention_score", "retention", RETENTION, "s"),
    ):
        _band(left, gates, [row[metric] for row in sweep], label, colour, marker)
    _band(right, gates, [row["drop"] for row in sweep], "drop", RETENTION, "s")
    right.axhline(0, color=INK, linewidth=0.8)
    _label(left, "gate", "score (%)")
    _label(right, "gate", "drop on retention questions (points)")
    left.legend(frameon=False, labelcolor=INK)
    _finish(figure, path, "95 % intervals")


def draw_delta_logits(kinds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw |delta logits| and the KL divergence of every kind of question."""
    title = "Delta logits at the answer position, gate 1 against gate 0"
    figure, (left, right) = _canvas(title, 2, height=max(4.6, 1 + 0.3 * len(kinds)))
    rows = range(len(kinds))
    for metric, label, colour, marker in (
        ("mean", "mean", RETENTION, "o"),
        ("p95", "95 %", THIRD, "s"),
        ("max", "max", AUDIO, "D"),
    ):
        left.plot([v[metric] for v in kinds.values()], rows, marker, color=colour, label=label, markeredgecolor="white")
    colours = [AUDIO if name.startswith("audio") else RETENTION for name in kinds]
    right.barh(rows, [v["kl"] for v in kinds.values()], color=colours, height=0.6)
    for axes in (left, right):
        axes.set_yticks(rows, list(kinds))
        axes.invert_yaxis()
    right.set_yticklabels([])
    _label(left, "|delta logits|", "")
    _label(right, "mean KL(base || fused) (nats)", "")
    left.legend(frameon=False, labelcolor=INK)
    _finish(figure, path, "")


def draw_cka(cka: Mapping[str, Mapping[str, Sequence[float | None]]], path: Path) -> None:
    """Draw the likeness of base and fused states, layer by layer."""
    figure, (axes,) = _canvas("Linear CKA (debiased) between base and fused states", 1)
    for kind, positions in cka.items():
        label, colour, marker = KINDS[kind]
        for position, style in (("answer", "-"), ("prompt", "--")):
            values = [float("nan") if value is None else value for value in positions[position]]
            axes.plot(values, style, color=colour, marker=marker, label=f"{label}, {position}", markeredgecolor="white")
    axes.set_ylim(top=1.02)
    _whole_numbers(axes.xaxis)
    _label(axes, "layer (0: embeddings)", "CKA")
    axes.legend(frameon=False, labelcolor=INK)
    _finish(figure, path, "answer: the position that predicts the answer; prompt: drawn positions")


def draw_attention(places: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the entropy of every head and prompt token, and where the attention lies."""
    figure, (left, right) = _canvas("Cross-attention to the audio tokens, gate 1", 2)
    grid = [row for place in places for row in place["entropy_per_head_and_token"]]
    columns = len(grid[0])
    limit = max(place["entropy_limit"] for place in places)
    image = left.imshow(
        grid, aspect="auto", cmap="viridis", vmin=0, vmax=limit, extent=(-columns + 0.5, 0.5, len(grid) - 0.5, -0.5)
    )
    figure.colorbar(image, ax=left, label="entropy (nats)")
    _label(left, "prompt token (0: the last)", "head" if len(places) == 1 else "place and head")
    left.grid(visible=False)
    _whole_numbers(left.xaxis)
    _whole_numbers(left.yaxis)
    count = len(places[0]["mass_per_token"])
    masses = [sum(place["mass_per_token"][i] for place in places) / len(places) for i in range(count)]
    colours = [INK if i in (0, count - 1) else THIRD for i in range(count)]
    right.bar(range(count), masses, color=colours, width=0.7)
    right.set_xticks(range(count), ["<audio>", *map(str, range(1, count - 1)), "</audio>"], rotation=45)
    for name, label, colour in (
        ("audio_mass_supervised", "on audio tokens, supervised", AUDIO),
        ("audio_mass_retention", "on audio tokens, retention", RETENTION),
    ):
        mean = sum(place[name] for place in places) / len(places)
        right.axhline(mean, color=colour, linestyle="--", linewidth=1.2, label=f"{label}: {mean:.2f}")
    _label(right, "audio token", "share of the attention")
    right.legend(frameon=False, labelcolor=INK, fontsize=8)
    _finish(figure, path, f"largest possible entropy {limit:.2f} nats")


def draw_residual(places: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw ||delta|| / ||x|| of every place, and its course in training."""
    figure, (left, right) = _canvas("Residual: ||delta|| / ||x|| where the prompt hears", 2)
    for kind, (label, colour, marker) in KINDS.items():
        shift = -0.1 if kind == "audio" else 0.1
        at = [place + shift for place in range(len(places))]
        mean = [place[kind]["ratio_mean"] for place in places]
        reach = [[0.0] * len(places), [p[kind]["ratio_p95"] - p[kind]["ratio_mean"] for p in places]]
        left.errorbar(at, mean, yerr=reach, fmt=marker, color=colour, capsize=3, label=f"{label}: mean, up to 95 %")
        top = [place[kind]["ratio_max"] for place in places]
        left.plot(at, top, "_", color=colour, markersize=10, label=f"{label}: max")
    left.set_xticks(range(len(places)))
    left.set_xlim(-0.6, len(places) - 0.4)
    left.set_ylim(bottom=0)
    _label(left, "place", "||delta|| / ||x||")
    left.legend(frameon=False, labelcolor=INK, fontsize=8)
    if training:
        steps = [row["step"] for row in training]
        for name, colour in (("residual_ratio", AUDIO), ("residual_scale", RETENTION), ("gate", "#999999")):
            if name in training[0]:
                right.plot(steps, [row[name] for row in training], color=colour, label=name, linewidth=1.2)
        right.legend(frameon=False, labelcolor=INK)
    else:
        right.text(0.5, 0.5, "not logged in training", ha="center", color=INK, transform=right.transAxes)
    _label(right, "step of Stage A", "")
    _finish(figure, path, "")


def draw_alignment(alignment: Mapping[str, Any], path: Path) -> None:
    """Draw the cosines of every audio token with pictures and words."""
    figure, (axes,) = _canvas("Cosine of audio tokens with vision tokens and words", 1)
    vision, text = alignment["vision"], alignment["text"]
    if vision is not None:
        axes.plot(vision["own_per_token"], "-o", color=AUDIO, label="own picture, mean")
        axes.plot(vision["other_per_token"], "--x", color="#999999", label="another picture, mean")
        axes.plot(vision["nearest_per_token"], "-s", color=RETENTION, label="own picture, nearest token")
    axes.plot(text["nearest_per_token"], "-D", color=THIRD, label="words, nearest")
    axes.axhline(0, color=INK, linewidth=0.8)
    first = [next(iter(words), "") for words in text["nearest_words"]]
    axes.set_xticks(range(len(first)), [f"{i + 1}\n{word}" for i, word in enumerate(first)])
    _label(axes, "audio token, and the word it is nearest to most often", "cosine")
    axes.legend(frameon=False, labelcolor=INK)
    _finish(figure, path, f"{alignment['clips']} clips")


def draw_monitors(stresses: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what every monitor says under every condition; those that fire are filled."""
    names = list(stresses[0]["readings"])
    figure, (axes,) = _canvas("Monitors, as the adapter is and under deliberate regressions", 1)
    for row, stress in enumerate(stresses):
        for column, name in enumerate(names):
            reading = stress["readings"][name]
            colour = AUDIO if reading["fires"] else "#E8F3EE"
            axes.fill_between([column - 0.48, column + 0.48], row - 0.45, row + 0.45, color=colour, linewidth=0)
            value = "-" if reading["value"] is None else f"{reading['value']:.3g}"
            ink = "white" if reading["fires"] else INK
            weight = "bold" if name in stress["must_fire"] else "normal"
            axes.text(column, row, value, ha="center", va="center", color=ink, fontsize=9, weight=weight)
    limits = [stresses[0]["readings"][name]["limit"] for name in names]
    signs = ["<" if name == "cka" else ">" for name in names]
    ticks = [f"{n}\n{sign} {limit:g}" for n, sign, limit in zip(names, signs, limits, strict=True)]
    axes.set_xticks(range(len(names)), ticks, fontsize=8)
    axes.set_yticks(range(len(stresses)), [stress["condition"] for stress in stresses])
    axes.invert_yaxis()
    axes.grid(visible=False)
    _finish(figure, path, "filled: fires; bold: must fire")


def _canvas(title: str, panels: int, height: float = 4.6) -> tuple[Figure, list[Axes]]:
    figure, found = blank((10.4 if panels > 1 else 8.4, height), panels, dpi=140)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    return figure, found


def _band(
    axes: Axes, x: Sequence[float], intervals: Sequence[Mapping[str, float]], label: str, colour: str, marker: str
) -> None:
    """Draw a line with its intervals, in percent."""
    low, mean, high = ([100 * interval[end] for interval in intervals] for end in ("low", "mean", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=colour, marker=marker, label=label, markeredgecolor="white")


def _whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def _finish(figure: Figure, path: Path, note: str) -> None:
    if note:
        figure.text(0.995, 0.99, note, ha="right", va="top", fontsize=7, color=INK)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
