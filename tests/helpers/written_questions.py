"""Questions in files, and examples made of them, kept or streamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from supervised.encoders.features import AudioFeatures
from supervised.safe_model import SafeModel
from supervised.stage_a import examples as stage_a_examples
from supervised.stage_a.examples import Batch, Examples


def media(folder: Path, number: int) -> tuple[Path, Path]:
    """A picture and a clip of their own for every question."""
    picture, clip = folder / f"{number}.png", folder / f"{number}.wav"
    if not clip.exists():
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(picture)
        soundfile.write(clip, (0.1 * rng.normal(size=8_000 + 100 * number)).astype(np.float32), 16_000, subtype="FLOAT")
    return picture, clip


def write(folder: Path, count: int, name: str = "m.jsonl") -> Path:
    """A manifest whose even questions need the sound; answers and prompts differ in length."""
    with open(folder / name, "w") as file:
        for i in range(count):
            picture, clip = media(folder, i)
            vl = i % 2 == 1
            row = {
                "id": f"{'gqa' if vl else 'music'}-{i}",
                "question": "what colour is the object ?" if i % 3 else "which sound can you hear in the picture ?",
                "answers": ["red one" if i % 4 else "dog"],
                "image": picture.name,
                "audio": clip.name,
                "retention_set": "gqa" if vl else None,
                "split": "adapter",
            }
            file.write(json.dumps(row) + "\n")
    return folder / name


def prepared(model: SafeModel, samples: Any, **options: Any) -> Examples:
    return Examples(model, samples, range(len(samples)), lambda _: None, **options)


def streamed(monkeypatch: pytest.MonkeyPatch, model: SafeModel, samples: Any, **options: Any) -> Examples:
    monkeypatch.setattr(stage_a_examples, "CACHE_BYTES", 0)
    examples = prepared(model, samples, **options)
    assert not examples.kept
    return examples


def equal(first: Any, second: Any) -> bool:
    """Whether two nested structures hold the same bits."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, AudioFeatures):
        return all(equal(getattr(first, name), getattr(second, name)) for name in ("tokens", "mask", "embedding"))
    if isinstance(first, Batch):
        names = ("rows", "inputs", "prompt_mask", "labels", "audio", "images", "retention")
        return all(equal(getattr(first, name), getattr(second, name)) for name in names)
    if hasattr(first, "items"):
        return first.keys() == second.keys() and all(equal(value, second[name]) for name, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)
