"""Latencies are those of the work itself, whatever is kept from earlier runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from envs.config import OutcomesConfig
from envs.measure import gate_zero_is_exact, measure
from supervised.data.sample import Sample
from supervised.encoders.windows import WindowedEncoder
from supervised.safe_model import SafeModel


def test_the_encoder_is_timed_though_its_features_are_kept(
    tiny_config: Any, many_samples: list[Sample], tmp_path: Path
) -> None:
    model = SafeModel.attach(replace(tiny_config, feature_cache=str(tmp_path)))
    config = OutcomesConfig(max_new_tokens=1, latency_repeats=3)
    measure(model, many_samples, config)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    assert isinstance(model.encoder, WindowedEncoder)
    hook = model.encoder.register_forward_pre_hook(count)
    measure(model, many_samples, config)
    hook.remove()
    assert passes >= 2 * config.latency_repeats  # two clips; everything else comes from the folder by now


def test_gate_zero_is_exact_though_the_base_searches_with_beams_by_itself(
    tiny_model: SafeModel, many_samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model.base.generation_config, "num_beams", 3)  # Florence-2's
    assert gate_zero_is_exact(tiny_model, many_samples[:4], OutcomesConfig(max_new_tokens=2))
