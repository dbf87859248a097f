"""A training whose questions are made ready ahead, in a second thread, step by step."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from supervised.config import DataConfig, ModelConfig, PreprocessConfig
from supervised.data.source import open_split
from supervised.errors import DataError
from supervised.safe_model import SafeModel
from supervised.stage_a import examples as stage_a_examples
from supervised.stage_a.config import AudioCurriculumConfig, GuardConfig, StageAConfig
from supervised.stage_a.training import StageAResult, train_stage_a

CONFIG = StageAConfig(
    steps=6,
    batch_size=4,
    accumulate=2,
    warmup_steps=2,
    gate_warmup_steps=2,
    eval_every=2,
    eval_samples=4,
    checkpoint_every=2,
    curriculum=AudioCurriculumConfig(shares=(0.5, 1.0)),  # the second stage begins at step 4
    guard=GuardConfig(max_drop=1.0, patience=9),
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """24 questions in files, whose clips are augmented."""
    monkeypatch.setattr(stage_a_examples, "CACHE_BYTES", 0)
    rng = np.random.default_rng(0)
    with open(tmp_path / "m.jsonl", "w") as file:
        for i in range(24):
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
            soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.normal(size=9_000), 16_000, subtype="FLOAT")
            row = {
                "id": f"music-{i}",
                "question": "which sound can you hear ?",
                "answers": ["dog" if i % 4 else "rain"],
            }
            row |= {"image": f"{i}.png", "audio": f"{i}.wav", "split": "validation" if i < 8 else "adapter"}
            file.write(json.dumps(row | {"retention_set": "gqa" if i % 2 else None}) + "\n")
    return DataConfig(manifest=str(tmp_path / "m.jsonl"), preprocess=PreprocessConfig(gain_db=6))


@pytest.fixture
def config(tiny_base_dir: Path, tiny_encoder_dir: Path) -> ModelConfig:
    return ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir))


def train(config: ModelConfig, data: DataConfig, folder: Path, stop: int = 0, **options: Any) -> StageAResult:
    """Train; with `stop`, the base is interrupted at that call."""
    torch.manual_seed(0)
    model = SafeModel.attach(config)
    calls = iter(range(1, 1_000_000))

    def count(*_: Any) -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    model.base.register_forward_pre_hook(count)
    samples = (open_split(data, "adapter"), open_split(data, "validation"))
    return train_stage_a(model, *samples, CONFIG, folder, progress=False, **options)


def traces(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (*(folder / "adapter").iterdir(), folder / "metrics.jsonl")}


def test_a_streamed_and_augmented_run_goes_on_bit_for_bit(
    config: ModelConfig, data: DataConfig, tmp_path: Path
) -> None:
    whole = train(config, data, tmp_path / "whole")
    assert whole.steps == 6
    for stop in (9, 16, 27):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt, match=r"was stopped at step \d of 6"):
            train(config, data, folder, stop)
        train(config, data, folder, resume=True)
        assert traces(folder) == traces(tmp_path / "whole")


def test_broken_media_are_passed_over_and_told_or_stop_the_run(
    config: ModelConfig, data: DataConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("0.wav", "1.wav", "2.wav", "3.wav", "13.wav", "14.png"):
        (tmp_path / name).write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"m\.jsonl, line \d+: sample 'music-\d+': (clip|picture) .* cannot be decoded"):
        train(config, data, tmp_path / "stopped")
    result = train(config, data, tmp_path / "run", on_error="skip")
    assert result.steps == 6
    told = "".join(capfd.readouterr())
    assert "2 training questions could not be used, e.g. " in told
    assert re.search(r"\d validation questions could not be used, e\.g\. .*m\.jsonl, line [1-4]: sample", told)


def test_missing_media_stop_the_run_or_are_passed_over(
    config: ModelConfig, data: DataConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "13.wav").unlink()
    with pytest.raises(DataError, match=r"m\.jsonl, line 14: audio file .*13\.wav does not exist"):
        train(config, data, tmp_path / "stopped")
    result = train(config, replace(data, on_error="skip"), tmp_path / "run", on_error="skip")
    assert result.steps == 6
    told = "".join(capfd.readouterr())
    assert re.search(
        r"1 training questions could not be used, e\.g\. .*m\.jsonl, line 14: audio file .*13\.wav does", told
    )
