"""How the tables of the tests are built."""

from __future__ import annotations

from envs.config import OutcomesConfig
from envs.cost import LatencyProfile

CONFIG = OutcomesConfig(batch_size=4, rows_per_part=7, exact_samples=6, latency_repeats=3, feature_dtype="float32")
PROFILED = LatencyProfile(1.0, 2.0, 0.5, 3.0, 0.25, 1.5, 20.0, 12.0, 0.125, 20.0, 4.0, 0.25)
