"""Pictures are drawn from figures with intervals."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from safe_rl.pictures import STYLES, draw_pareto, draw_policies


def figures(accuracy: float, latency: float) -> dict[str, dict[str, float]]:
    return {
        name: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        for name, mean in (("accuracy", accuracy), ("latency_ms", latency))
    }


def test_every_policy_has_a_style_and_is_drawn(tmp_path: Path) -> None:
    policies = {name: figures(0.5 + i / 20, 10 + i) for i, name in enumerate(STYLES)}
    draw_policies(policies, tmp_path / "policies.png", "A title")
    with Image.open(tmp_path / "policies.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_curves_and_points_are_drawn_without_leaving_temporary_files(tmp_path: Path) -> None:
    curve = [figures(0.6 + i / 20, 10 + i) for i in range(3)]
    points = {"always": figures(0.8, 20), "never": figures(0.6, 10)}
    draw_pareto({"ppo_lagrangian": curve, "oracle": curve[:1]}, points, tmp_path / "pareto.png", "A title")
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]


def test_a_mean_outside_of_its_interval_is_drawn_nevertheless(tmp_path: Path) -> None:
    odd = figures(0.5, 10)
    odd["accuracy"]["low"] = 0.51
    draw_policies({"always": odd}, tmp_path / "odd.png", "A title")
    assert (tmp_path / "odd.png").stat().st_size > 0


def test_colours_and_markers_tell_all_policies_apart() -> None:
    assert len({(colour, marker) for _, colour, marker in STYLES.values()}) == len(STYLES) == 16
    assert len({label for label, _, _ in STYLES.values()}) == 16


def test_marked_points_have_rings_and_the_hull_is_drawn(tmp_path: Path) -> None:
    curve = [figures(0.6 + i / 20, 10 + i) for i in range(3)]
    points = {"always": figures(0.8, 20), "never": figures(0.6, 10)}
    pictures = []
    for marks in (None, {"ppo_lagrangian": [None, "certified", None]}, {"ppo_lagrangian": ["certified"] * 3}):
        draw_pareto({"ppo_lagrangian": curve}, points, tmp_path / "pareto.png", "A title", marks)
        pictures.append((tmp_path / "pareto.png").read_bytes())
    assert len(set(pictures)) == 3
    with pytest.raises(ValueError, match="shorter"):
        draw_pareto({"ppo_lagrangian": curve}, points, tmp_path / "pareto.png", "A title", {"ppo_lagrangian": ["x"]})
