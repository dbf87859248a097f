"""The files of a diagnosis: figures go in; diagnostics.json, a CSV and a PNG per diagnostic come out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervised.files import write_json, write_text

if TYPE_CHECKING:
    from supervised.diagnostics.config import EvaluateConfig
    from supervised.diagnostics.diagnosis import Diagnosis

Row = Mapping[str, Any]
NUMBERS = {"residual_ratio", "residual_scale", "open_gate", "gate"}
"""What Stage A logs of its fusion at every step."""


def write_diagnosis(run_dir: Path, diagnosis: Diagnosis, config: EvaluateConfig) -> Path:
    """Write all files of a diagnosis into `run_dir`/diagnostics and return that folder."""
    from safe_rl.diagnostic_pictures import draw_all

    figures = diagnosis.as_json()
    figures["gate_sweep"] = sweep_with_intervals(diagnosis, config.seed)
    figures["training"] = training_of(run_dir / "stage_a" / "metrics.jsonl")
    folder = run_dir / "diagnostics"
    for name, rows in tables_of(figures).items():
        write_text(folder / f"{name}.csv", _csv(rows))
    draw_all(figures, folder)
    write_json(folder / "diagnostics.json", figures)  # the last one: with it the folder is whole
    return folder


def sweep_with_intervals(diagnosis: Diagnosis, seed: int) -> list[dict[str, Any]]:
    """Return audio accuracy, retention score and drop of every gate, with 95 % intervals."""
    from safe_rl.evaluating import Means

    sweep, means = diagnosis.sweep, Means(diagnosis.groups, seed)
    return [
        {
            "gate": gate,
            "audio_accuracy": means(scores, ~sweep.retention),
            "retention_score": means(scores, sweep.retention),
            "drop": means(sweep.scores[0] - scores, sweep.retention),
        }
        for gate, scores in zip(sweep.gates, sweep.scores, strict=True)
    ]


def training_of(log: Path) -> list[dict[str, float]]:
    """Return what Stage A logged of its fusion, a dictionary per step; nothing for an adapter of elsewhere."""
    if not log.is_file():
        return []
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return [
        {"step": line["step"], **{name: line[name] for name in sorted(NUMBERS & line.keys())}}
        for line in lines
        if line.get("kind") == "train" and "residual_ratio" in line
    ]


def tables_of(figures: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of every CSV by its name."""
    tables: dict[str, list[Row]] = {
        "gate_sweep": [_flat(row) for row in figures["gate_sweep"]],
        "delta_logits": [{"kind": kind, **values} for kind, values in figures["delta_logits"].items()],
        "cka": list(_cka_rows(figures["cka"])),
        "alignment": list(_alignment_rows(figures["alignment"])),
        "monitors": [
            {"condition": stress["condition"], **reading}
            for stress in figures["monitors"]
            for reading in stress["readings"].values()
        ],
    }
    if figures["attention"]:
        tables["attention"] = list(_attention_rows(figures["attention"]))
        tables["residual"] = [
            {"place": place, "residual_scale": figures["residual_scales"][place], "kind": kind, **values}
            for place, kinds in enumerate(figures["residual"])
            for kind, values in kinds.items()
        ]
    if figures["training"]:
        tables["training"] = figures["training"]
    return tables


def _flat(row: Row) -> Row:
    """Return the row with an interval as three columns."""
    result: dict[str, Any] = {}
    for name, value in row.items():
        result |= {f"{name}_{end}": value[end] for end in value} if isinstance(value, dict) else {name: value}
    return result


def _cka_rows(cka: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Iterator[Row]:
    for kind, positions in cka.items():
        for position, values in positions.items():
            for layer, value in enumerate(values):
                yield {"kind": kind, "positions": position, "layer": layer, "cka": value}


def _attention_rows(places: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for place, figures in enumerate(places):
        for name, value in figures.items():
            if not isinstance(value, list):
                yield {"place": place, "figure": name, "head": None, "token": None, "value": value}
                continue
            for i, one in enumerate(value):
                if isinstance(one, list):  # a value per head and prompt token, counted from the last, which is 0
                    for j, each in enumerate(one):
                        yield {"place": place, "figure": name, "head": i, "token": j - len(one) + 1, "value": each}
                else:
                    head, token = (None, i) if name == "mass_per_token" else (i, None)
                    yield {"place": place, "figure": name, "head": head, "token": token, "value": one}


def _alignment_rows(alignment: Mapping[str, Any]) -> Iterator[Row]:
    vision, text = alignment["vision"], alignment["text"]
    for token, nearest in enumerate(text["nearest_per_token"]):
        yield {
            "audio_token": token,
            "own_picture": None if vision is None else vision["own_per_token"][token],
            "other_picture": None if vision is None else vision["other_per_token"][token],
            "nearest_vision_token": None if vision is None else vision["nearest_per_token"][token],
            "nearest_word": nearest,
            "words": " ".join(text["nearest_words"][token]),
        }


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
