from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "ppo_lagrangian.md"


@pytest.mark.slow
def test_the_page_for_researchers_runs_from_top_to_bottom(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MyEnv(runner):
        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return *rest, {"cost": float(info["cost"][1])}

    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"MyEnv": MyEnv}
    for block in blocks:
        exec(block.replace("100_000", "2_000").replace("40_000", "1_000"), names)  # a page may not take minutes
    assert names["model"].num_timesteps == 2_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.zip", "checkpoint"]


def test_the_page_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) == 8
    assert named <= {path.name for path in Path(__file__).parent.rglob("test_*.py")}
