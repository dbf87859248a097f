"""The weights that ship do what the figures beside them say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervised.demo import WEIGHTS
from supervised.demo.figures import Figures, measure

ESC10 = Path(__file__).parents[4] / "shared" / "data" / "esc10"
QUESTIONS, CLIPS = 1500, 500
"""Fewer than the figures were measured on; their standard errors are below 2 and 1 points."""


def told() -> Figures:
    figures: Figures = json.loads((WEIGHTS / "figures.json").read_text(encoding="utf-8"))
    return figures


def test_the_figures_meet_what_the_demo_needs() -> None:
    figures = told()
    assert figures["vl_accuracy"] >= 0.95
    assert figures["encoder_synthesised"] >= 0.95
    assert figures["encoder_recorded"] is not None
    assert figures["encoder_recorded"] >= 0.70
    # Without audio the base guesses about as well as anyone can from the picture, and no better.
    assert figures["audio_best_guess"] - 0.06 <= figures["audio_accuracy_without_audio"]
    assert figures["audio_accuracy_without_audio"] <= figures["audio_best_guess"] + 0.02


def test_the_weights_are_small_and_hold_no_pickle() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert len([path for path in files if path.suffix == ".safetensors"]) == 2


@pytest.mark.slow
def test_the_figures_are_what_the_weights_reach() -> None:
    figures = told()
    measured = measure(WEIGHTS, str(ESC10) if ESC10.is_dir() else None, QUESTIONS, CLIPS)
    assert measured["vl_accuracy"] == pytest.approx(figures["vl_accuracy"], abs=0.02)
    assert measured["audio_best_guess"] == pytest.approx(figures["audio_best_guess"], abs=0.05)
    assert measured["audio_accuracy_without_audio"] == pytest.approx(figures["audio_accuracy_without_audio"], abs=0.05)
    assert measured["encoder_synthesised"] == pytest.approx(figures["encoder_synthesised"], abs=0.02)
    if ESC10.is_dir():  # 80 recordings; the same ones, so the same share but for the last bits of a sum
        assert measured["encoder_recorded"] == pytest.approx(figures["encoder_recorded"], abs=0.02)
