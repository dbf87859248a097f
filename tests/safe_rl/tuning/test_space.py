"""From ranges to distributions, and from what a trial drew to a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from agents.config import LagrangianConfig, PPOConfig
from envs.config import RewardConfig
from safe_rl.config import RunConfig
from safe_rl.tuning.config import CHOICES, FLOATS, INTEGERS, SpaceConfig, TuneConfig
from safe_rl.tuning.space import check_space, configured, distributions, draw, own_settings
from supervised.errors import ConfigError


def run_with(**space: Any) -> RunConfig:
    return RunConfig(tune=TuneConfig(space=SpaceConfig(**space)))


def test_the_default_space_varies_every_setting_and_every_end_is_allowed() -> None:
    space = distributions(RunConfig())
    assert list(space) == [key.format(agent="ppo") for key in (FLOATS | INTEGERS | CHOICES).values()]
    check_space(RunConfig())
    check_space(RunConfig(agent="exact"))


def test_what_the_exact_agent_does_not_read_is_not_varied() -> None:
    space = distributions(RunConfig(agent="exact"))
    assert {"exact.learning_rate", "exact.batch_size", "exact.hidden", "exact.entropy_coefficient"} <= space.keys()
    assert not [key for key in space if key.startswith("ppo.")]
    nothing = dict.fromkeys((FLOATS | INTEGERS | CHOICES).keys() - {"clip_range"})
    with pytest.raises(ConfigError, match=r"tune\.space varies nothing that agent exact reads"):
        check_space(replace(run_with(**nothing), agent="exact"))


def test_null_keeps_the_value_of_the_run() -> None:
    space = distributions(run_with(alpha=None, batch_size=None, n_epochs=None))
    assert not {"reward.alpha", "ppo.batch_size", "ppo.n_epochs"} & space.keys()
    assert "reward.gamma" in space


def test_scales_are_those_that_the_space_names() -> None:
    space = distributions(run_with(logarithmic=("clip_range",)))
    clip_range, learning_rate = space["ppo.clip_range"], space["ppo.learning_rate"]
    assert isinstance(clip_range, FloatDistribution)
    assert isinstance(learning_rate, FloatDistribution)
    assert clip_range.log
    assert not learning_rate.log


def test_what_is_drawn_becomes_a_run() -> None:
    settings = {"reward.alpha": 1.5, "ppo.hidden": "32 16", "ppo.batch_size": 500, "lagrangian.lr": 7.0}
    run = configured(RunConfig(), settings)
    assert run.reward == RewardConfig(alpha=1.5)
    assert run.ppo == PPOConfig(hidden=(32, 16), batch_size=500)
    assert run.lagrangian == LagrangianConfig(lr=7.0)
    assert replace(run, reward=RewardConfig(), ppo=PPOConfig(), lagrangian=LagrangianConfig()) == RunConfig()


def test_the_settings_of_the_run_move_to_the_nearest_end() -> None:
    run = run_with(alpha=(1.0, 2.0), gamma=(0.0, 0.05), hidden=((8,), (9, 9)))
    own = own_settings(run, distributions(run))
    assert own["reward.alpha"] == 1.0  # 0.6 lies below
    assert own["reward.gamma"] == 0.05  # 0.1 lies above
    assert own["ppo.learning_rate"] == RunConfig().ppo.learning_rate
    assert own["ppo.hidden"] == "8"  # the run's own is not offered
    assert own["lagrangian.initial"] == 0.0  # null
    assert own["ppo.batch_size"] == 500


def test_a_trial_draws_every_setting_within_its_range() -> None:
    space = distributions(RunConfig())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        settings = draw(study.ask(), space)
        assert settings.keys() == space.keys()
        assert all(space[key]._contains(space[key].to_internal_repr(value)) for key, value in settings.items())
        configured(RunConfig(), settings)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (
            {"batch_size": (500, 300)},
            r"^tune\.space leads to a run that is not allowed: ppo\.batch_size must divide .* = 2000, got 300; give "
            r"other values with --tune\.space\.batch_size, or null to keep the run's own\.$",
        ),
        ({"batch_size": (300,)}, r"= 2000, got 300; give other values with --tune\.space\.batch_size, or null"),
        ({"clip_range": (0.0, 0.2), "logarithmic": ()}, r"ppo\.clip_range must be above 0"),
        ({"alpha": (-1.0, 1.0)}, r"reward\.alpha must be a finite number >= 0"),
        ({"hidden": ((0,),)}, r"ppo\.hidden must be a list of widths"),
        (
            {"multiplier_initial": (0.0, 9.0)},
            r"lagrangian\.initial must be between 0 and lagrangian\.maximum = 5.* --tune\.space\.multiplier_initial "
            r"and --tune\.space\.multiplier_maximum",
        ),
        ({"multiplier_initial": (0.0, 50.0), "multiplier_maximum": None}, r"lagrangian\.initial must be between 0"),
    ],
)
def test_a_range_with_a_value_that_the_run_refuses_is_refused(space: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_space(run_with(**space))
