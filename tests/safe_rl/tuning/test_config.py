"""A search that makes no sense is refused before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from safe_rl.config import RunConfig, TuneRun
from safe_rl.options import options
from safe_rl.tuning.config import CHOICES, FLOATS, INTEGERS, SpaceConfig, TuneConfig
from supervised.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trials": 0}, r"tune\.trials must be at least 1, got 0; use e\.g\. 40"),
        ({"seeds_per_trial": 0}, r"tune\.seeds_per_trial must be at least 1"),
        ({"startup": 0}, r"tune\.startup must be at least 1"),
        ({"batch": 0}, r"tune\.batch must be at least 1"),
        ({"workers": 0}, r"tune\.workers must be at least 1"),
        ({"seed": -1}, r"tune\.seed must be a whole number >= 0, got -1"),
        ({"max_latency_ms": 0.0}, r"tune\.max_latency_ms must be > 0, or null, got 0\.0"),
        ({"max_latency_ms": float("inf")}, r"tune\.max_latency_ms must be > 0, or null, got inf"),
        ({"storage": ""}, r"tune\.storage is empty"),
        ({"study": ""}, r"tune\.study is empty"),
        ({"mode": "pareto", "pruner": "median"}, r"tune\.pruner median does not go with tune\.mode pareto.*leave"),
    ],
)
def test_values_that_are_not_allowed_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TuneConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"alpha": (1.0, 0.5)}, r"tune\.space\.alpha must be \[low, high\] with low <= high, got \[1\.0, 0\.5\]"),
        ({"gamma": (0.0, float("inf"))}, r"tune\.space\.gamma must be \[low, high\]"),
        ({"learning_rate": (0.0, 1.0)}, r"learning_rate is drawn on a logarithmic scale and must begin above 0"),
        ({"batch_size": ()}, r"tune\.space\.batch_size must be a list of different choices, got \[\]"),
        ({"hidden": ((8,), (8,))}, r"tune\.space\.hidden must be a list of different choices"),
        ({"logarithmic": ("n_epochs",)}, r"tune\.space\.logarithmic must name ranges of real numbers"),
        (dict.fromkeys([*FLOATS, *INTEGERS, *CHOICES]), r"tune\.space is empty"),
    ],
)
def test_a_space_that_is_not_allowed_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SpaceConfig(**settings)


def test_every_setting_of_the_space_is_a_key_of_the_run() -> None:
    keys = {name for name, _ in options(RunConfig)}
    varied = FLOATS | INTEGERS | CHOICES
    assert len(varied) == 11
    for agent in ("ppo", "exact"):
        ours = [key.format(agent=agent) for key in varied.values()]
        assert {key for key in ours if agent == "ppo" or not key.startswith("ppo.")} <= keys
    assert {*varied, "logarithmic"} == set(SpaceConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("mode", "pruner", "prunes"),
    [("single", None, True), ("single", "none", False), ("pareto", None, False), ("pareto", "none", False)],
)
def test_only_one_objective_is_pruned(mode: Any, pruner: Any, prunes: bool) -> None:
    assert TuneConfig(mode=mode, pruner=pruner).prunes is prunes


def test_the_first_batch_is_the_startup_and_the_others_follow() -> None:
    tune = TuneConfig(startup=5, batch=3)
    assert [tune.first_of_batch(number) for number in range(12)] == [0, 0, 0, 0, 0, 5, 5, 5, 8, 8, 8, 11]


def test_a_trial_has_a_number() -> None:
    with pytest.raises(ConfigError, match="trial must be the number of a trial, got -2"):
        TuneRun(trial=-2)
    assert TuneRun(trial=0).trial == 0
