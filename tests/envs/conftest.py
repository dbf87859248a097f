"""A synthetic outcome table whose best policy is known, and the tiny models of the supervised tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built_tables import CONFIG, PROFILED
from synthetic_tables import build_synthetic_table

from envs.build import build_table
from envs.outcomes import OutcomeTable
from supervised.data.sample import Sample


@pytest.fixture
def synthetic_table(tmp_path: Path) -> Path:
    """A table of 900 rows in four parts; see `synthetic_rows` for its best policy."""
    return build_synthetic_table(tmp_path / "table")


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Path]:
    """Return `build_synthetic_table` bound to a folder of this test."""
    return lambda name="other", **options: build_synthetic_table(tmp_path / name, **options)


@pytest.fixture(scope="session")
def tiny_model(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Any:
    """A SafeModel whose adapter is random and loud, so that audio changes answers."""
    import torch

    from supervised.config import FusionConfig, ModelConfig
    from supervised.safe_model import SafeModel

    torch.manual_seed(4)
    config = ModelConfig(
        base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), fusion=FusionConfig(residual_scale=3.0)
    )
    return SafeModel.attach(config)


@pytest.fixture(scope="session")
def many_samples(tiny_samples: list[Sample]) -> list[Sample]:
    """Thirty questions: the six of `tiny_samples` five times over, in groups of their own."""
    from dataclasses import replace

    return [
        replace(sample, id=f"{sample.id}-{turn}", group=f"{sample.group}-{turn}")
        for turn in range(5)
        for sample in tiny_samples
    ]


@pytest.fixture
def sixty(many_samples: list[Sample], tmp_path: Path) -> Path:
    """A manifest on disk: `many_samples` twice."""
    from dataclasses import replace

    import soundfile
    from PIL import Image

    from supervised.data.manifest import write_manifest
    from supervised.data.sample import Waveform

    samples: list[Sample] = []
    for sample in many_samples * 2:
        name = f"{sample.id}-{len(samples)}"
        image, audio = tmp_path / f"{name}.png", None
        assert isinstance(sample.image, Image.Image)
        sample.image.save(image)
        if isinstance(sample.audio, Waveform):
            audio = tmp_path / f"{name}.flac"
            soundfile.write(audio, sample.audio.samples, sample.audio.rate)
        samples.append(replace(sample, id=name, image=image, audio=audio))
    write_manifest(tmp_path / "manifest.jsonl", samples)
    return tmp_path / "manifest.jsonl"


@pytest.fixture(scope="session")
def splits(many_samples: list[Sample]) -> dict[str, list[Sample]]:
    return {"train": many_samples[:18], "test": many_samples[18:]}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, splits: dict[str, list[Sample]]) -> OutcomeTable:
    steps: list[tuple[int, int]] = []
    folder = tmp_path_factory.mktemp("built")
    table = build_table(
        tiny_model, splits, CONFIG, folder, lambda done, total: steps.append((done, total)), profile=PROFILED
    )
    assert steps[-1] == (30, 30)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    return table
