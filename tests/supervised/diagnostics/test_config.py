from __future__ import annotations

from typing import Any

import pytest

from supervised.diagnostics.config import EvaluateConfig, MonitorConfig
from supervised.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"questions": 7}, r"evaluate\.questions must be at least 8, got 7"),
        ({"positions": 3}, r"evaluate\.positions must be at least 8, got 3"),
        ({"seed": -1}, r"evaluate\.seed must be at least 0, got -1"),
        ({"gates": (0.0, 0.5)}, r"evaluate\.gates must rise from 0 to 1, got \[0\.0, 0\.5\]"),
        ({"gates": (0.0, 0.5, 0.2, 1.0)}, r"evaluate\.gates must rise from 0 to 1"),
        ({"gates": (0.0,)}, r"evaluate\.gates must rise from 0 to 1"),
    ],
)
def test_nonsense_is_refused_with_a_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drop": -0.1}, r"evaluate\.monitors\.drop must be at least 0 and finite, got -0\.1"),
        ({"kl": float("inf")}, r"evaluate\.monitors\.kl must be at least 0 and finite, got inf"),
        ({"cka": 1.1}, r"evaluate\.monitors\.cka must lie in \[0, 1\], got 1\.1"),
        ({"audio_mass": -1}, r"evaluate\.monitors\.audio_mass must lie in \[0, 1\], got -1"),
        ({"audio_level": 3}, r"evaluate\.monitors\.audio_level must lie in \[-120, 0\] dB, got 3"),
    ],
)
def test_impossible_limits_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MonitorConfig(**values)
