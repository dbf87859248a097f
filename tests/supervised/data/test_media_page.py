"""What the page on media says."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from supervised.config import PreprocessConfig
from supervised.data import limits

PAGE = Path(__file__).parents[3] / "docs" / "media.md"


def test_the_page_names_every_setting_and_the_limits() -> None:
    text = PAGE.read_text(encoding="utf-8")
    settings = {field.name for field in fields(PreprocessConfig)}
    assert settings - set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {"seed"}
    for figure in (f"{limits.MAX_PIXELS:,} pixels", f"{limits.MAX_SECONDS:.0f} s, {limits.MAX_CHANNELS} channels"):
        assert figure in text


def test_the_pages_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").touch()
    with open(tmp_path / "questions.jsonl", "w") as file:
        for number in range(400):
            name = "avqa" if number % 4 else "vqav2"
            row = {"id": f"{name}-{number}", "question": "?", "answers": ["a"], "audio": "a.wav", "split": "adapter"}
            file.write(json.dumps(row | {"retention_set": None if number % 4 else "vqav2"}) + "\n")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(script.replace("10_000", "20"), names)
    batch = names["batch"]
    assert isinstance(batch, list)
    assert [sample.retention_set for sample in batch] == [None] * 16 + ["vqav2"] * 16
    assert len(names["held_out"]) == 20
