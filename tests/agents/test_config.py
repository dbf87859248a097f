from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from agents.config import (
    AgentConfig,
    CertifyConfig,
    CurriculumConfig,
    ExactConfig,
    LagrangianConfig,
    PPOConfig,
    SmoothingConfig,
)
from supervised.errors import ConfigError


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    code = "import sys, agents.config; print({'torch', 'stable_baselines3', 'scipy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPOConfig(learning_rate=0.0), r"ppo\.learning_rate must be > 0, got 0\.0; use e\.g\. 0\.0"),
        (lambda: PPOConfig(gamma=1.5), r"ppo\.gamma must be between 0 and 1, got 1\.5"),
        (lambda: PPOConfig(num_envs=0), r"ppo\.num_envs must be a whole number of at least 1, got 0"),
        (lambda: PPOConfig(batch_size=300), r"batch_size must divide .* = 2000, got 300"),
        (lambda: PPOConfig(num_envs=1, batch_size=1), r"must be at least 2, got 1"),
        (lambda: PPOConfig(target_kl=-1.0), r"ppo\.target_kl must be > 0, or null, got -1\.0"),
        (lambda: PPOConfig(hidden=(64, 0)), r"ppo\.hidden must be a list of widths of at least 1, got 0"),
        (lambda: PPOConfig(entropy_coefficient=float("nan")), r"entropy_coefficient must be >= 0, got nan"),
        (
            lambda: LagrangianConfig(limit=-0.1),
            r"lagrangian\.limit must be a number >= 0, .* got -0\.1; use e\.g\. 0\.003",
        ),
        (lambda: LagrangianConfig(limit=()), r"lagrangian\.limit must be a number or a list of at least one, got \[\]"),
        (
            lambda: LagrangianConfig(limit=[0.1, "much"]),  # type: ignore[arg-type]
            r"lagrangian\.limit must be a number >= 0, .* got \[0\.1, 'much'\]",
        ),
        (lambda: CertifyConfig(limit="0.01"), r"certify\.limit must be a number >= 0, .* or null, got '0\.01'"),  # type: ignore[arg-type]
        (
            lambda: LagrangianConfig(initial=30.0),
            r"initial must be between 0 and lagrangian\.maximum = 20\.0, or null, got 30\.0",
        ),
        (lambda: LagrangianConfig(limit=(0.1, 0.2)).limits(3), r"one number or 3 .* got 2: \[0\.1, 0\.2\]"),
        (lambda: PPOConfig(clip_range=1e300), r"ppo\.clip_range must be above 0 and at most 1000, got 1e\+300"),
        (lambda: LagrangianConfig(margin=-0.5), r"lagrangian\.margin must be >= 0, got -0\.5; use e\.g\. 1"),
        (lambda: PPOConfig(activation="gelu"), r"ppo\.activation must be relu or tanh, got 'gelu'; use e\.g\. relu"),  # type: ignore[arg-type]
        (lambda: PPOConfig(averaging=1.0), r"ppo\.averaging must be at least 0 and below 1, got 1\.0"),
        (lambda: SmoothingConfig(trees=-1), r"smoothing\.trees must be a whole number >= 0, got -1; use e\.g\. \d+\."),
        (lambda: SmoothingConfig(min_leaf=0), r"smoothing\.min_leaf must be a whole number of at least 1, got 0"),
        (lambda: SmoothingConfig(max_rows=0), r"smoothing\.max_rows must be a whole number of at least 1, got 0"),
        (lambda: ExactConfig(steps=0), r"exact\.steps must be a whole number of at least 1, got 0"),
        (lambda: ExactConfig(judgements=0), r"exact\.judgements must be a whole number of at least 1, got 0"),
        (lambda: ExactConfig(learning_rate=-1.0), r"exact\.learning_rate must be > 0, got -1\.0"),
        (lambda: ExactConfig(entropy_coefficient=-0.1), r"exact\.entropy_coefficient must be >= 0, got -0\.1"),
        (lambda: ExactConfig(hidden=(0,)), r"exact\.hidden must be a list of widths of at least 1, got 0"),
        (lambda: ExactConfig(activation="gelu"), r"exact\.activation must be relu or tanh, got 'gelu'"),  # type: ignore[arg-type]
        (lambda: ExactConfig(averaging=-0.1), r"exact\.averaging must be at least 0 and below 1, got -0\.1"),
        (lambda: CurriculumConfig(steps=-1), r"curriculum\.steps must be a whole number >= 0, got -1"),
        (lambda: AgentConfig(total_timesteps=0), r"total_timesteps must be a whole number of at least 1, got 0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_a_remedy(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_alpha_grows_linearly_over_absolute_steps() -> None:
    curriculum = CurriculumConfig(steps=20_000)
    assert [curriculum.alpha(step, 0.6) for step in (0, 5_000, 20_000, 90_000)] == [0.0, 0.15, 0.6, 0.6]


def test_without_a_curriculum_alpha_is_final_at_once() -> None:
    assert CurriculumConfig(steps=0).alpha(0, 0.6) == 0.6


def test_limits_of_several_sets_leave_the_configuration_hashable() -> None:
    assert hash(LagrangianConfig(limit=(0.1, 0.2))) == hash(LagrangianConfig(limit=(0.1, 0.2)))


@pytest.mark.parametrize("config", [LagrangianConfig, CertifyConfig])
def test_a_list_of_limits_is_a_tuple_of_them(config: Callable[..., Any]) -> None:
    assert config(limit=[0.1, 0.2]) == config(limit=(0.1, 0.2))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (PPOConfig, {"n_steps": 2.5}, r"^ppo\.n_steps must be a whole number, got 2\.5; use e\.g\. 1\.$"),
        (PPOConfig, {"n_epochs": True}, r"^ppo\.n_epochs must be a whole number, got True"),
        (PPOConfig, {"hidden": 64}, r"^ppo\.hidden must be a list, each a whole number, got 64"),
        (PPOConfig, {"normalize_advantage": "no"}, r"^ppo\.normalize_advantage must be True or False, got 'no'"),
        (PPOConfig, {"target_kl": "x"}, r"^ppo\.target_kl must be a number or None, got 'x'"),
        (LagrangianConfig, {"lr": None}, r"^lagrangian\.lr must be a number, got None; use e\.g\. 20\.0"),
        (LagrangianConfig, {"limit": True}, r"^lagrangian\.limit must be a number .*, got True"),
    ],
)
def test_values_of_another_type_are_refused_in_one_line(
    kind: Callable[..., Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**given)


def test_lists_and_numbers_of_numpy_become_plain_values() -> None:
    values: dict[str, Any] = {"hidden": [np.int64(8)], "learning_rate": np.float32(0.5)}
    ppo = PPOConfig(**values)
    assert json.dumps(asdict(ppo))
    assert hash(ppo) == hash(PPOConfig(hidden=(8,), learning_rate=0.5))
    limits: Any = [np.float32(0.5), 1]
    assert json.dumps(asdict(LagrangianConfig(limit=limits)))
    assert LagrangianConfig(limit=limits) == LagrangianConfig(limit=(0.5, 1.0))
