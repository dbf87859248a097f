from __future__ import annotations

import math

import numpy as np
import pytest

from supervised.data.sample import Waveform
from supervised.diagnostics.monitors import above, fired, level


def test_a_monitor_fires_above_its_limit_only() -> None:
    readings = {name: above(name, value, 0.5) for name, value in (("at", 0.5), ("over", 0.51), ("none", None))}
    assert fired(readings) == ["over"]


def test_nan_fires() -> None:
    assert above("kl", math.nan, 1.0).fires


def test_the_level_of_a_full_square_wave_is_0_db() -> None:
    assert level(Waveform(np.array([1.0, -1.0], np.float32), 16_000)) == pytest.approx(0)
    assert level(Waveform(np.array([0.1, -0.1], np.float32), 16_000)) == pytest.approx(-20, abs=1e-5)
    assert level(Waveform(np.zeros(4, np.float32), 16_000)) == -120
