"""The interactive picture is one file that needs nothing else and tells every figure."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from safe_rl.interactive import _SYMBOLS, draw_interactive
from safe_rl.pictures import STYLES, hull_of


def figures(accuracy: float, latency: float) -> dict[str, dict[str, float] | None]:
    found: dict[str, dict[str, float] | None] = {
        name: {"mean": mean, "low": mean - 0.01, "high": mean + 0.02}
        for name, mean in (("accuracy", accuracy), ("latency_ms", latency), ("harm", 0.125))
    }
    return found | {"drop": None}


CURVE = [figures(0.70, 14.0), figures(0.66, 12.0), figures(0.60, 10.5)]
POINTS = {"always": figures(0.8, 20.0), "never": figures(0.6, 10.0)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "pareto.html"
    draw_interactive(
        {"ppo_lagrangian": CURVE, "oracle": CURVE[:1] * 3},
        POINTS,
        path,
        "A title",
        ["alpha 0", "alpha 1", "alpha 2"],
        {"ppo_lagrangian": [None, "certified", None]},
    )
    return path.read_text(encoding="utf-8")


def traces(page: str) -> dict[str, Any]:
    data = re.search(r'Plotly\.newPlot\(\s*"picture",\s*(\[.*?\]),\s*\{"', page, re.DOTALL)
    assert data is not None
    return {trace["name"]: trace for trace in json.loads(data.group(1))}


def test_the_page_needs_no_network(page: str) -> None:
    assert "Plotly.newPlot" in page
    assert len(page) > 1_000_000  # plotly.js itself
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)\s*=", page) == []


def test_pointing_at_a_policy_shows_every_figure_that_it_has(page: str) -> None:
    told = traces(page)["PPO-Lagrangian"]
    assert told["text"][1] == (
        "<b>PPO-Lagrangian, alpha 1, certified</b><br>accuracy: 0.66 (0.65 to 0.68)<br>latency_ms: 12 (11.99 to 12.02)"
        "<br>harm: 0.125 (0.115 to 0.145)"
    )
    assert told["x"] == [10.5, 12.0, 14.0]  # a curve runs with the latency
    assert told["y"] == pytest.approx([60, 66, 70])
    assert told["error_y"]["array"] == pytest.approx([2, 2, 2])
    assert told["error_y"]["arrayminus"] == pytest.approx([1, 1, 1])


def test_a_marked_point_has_a_ring(page: str) -> None:
    ring = traces(page)["PPO-Lagrangian: certified"]
    assert (ring["x"], ring["y"], ring["marker"]["symbol"]) == ([12.0], [66.0], "circle-open")


def test_the_hull_leads_from_never_over_the_learned_to_always(page: str) -> None:
    hull = traces(page)["hull of the learned policies"]
    assert hull["x"] == [10.0, 12.0, 14.0, 20.0]
    assert hull["y"] == pytest.approx([60, 66, 70, 80])


def test_the_hull_knows_neither_oracle_nor_baselines() -> None:
    assert hull_of({"oracle": CURVE}, POINTS) is None
    found = hull_of({"exact_gradient": CURVE[:1], "oracle": [figures(0.99, 10.0)]}, POINTS)
    assert found is not None
    assert found[0] == [10.0, 14.0, 20.0]
    assert found[1] == pytest.approx([60, 70, 80])


def test_every_style_has_a_symbol() -> None:
    assert {marker for _, _, marker in STYLES.values()} <= set(_SYMBOLS)
    assert len(set(_SYMBOLS.values())) == len(_SYMBOLS)
