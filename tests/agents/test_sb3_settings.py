"""What a user of stable-baselines3's PPO is used to give is taken as there, or refused by name in one line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import LagrangianConfig, PPOConfig
from agents.ppo_lagrangian import PPOLagrangian
from agents.sb3_settings import ABSENT, ABSENT_OF_POLICY, DEFAULTS, FIELDS, Keywords
from supervised.errors import ConfigError

OWN = {"policy", "env", "policy_kwargs", "seed", "device", "tensorboard_log", "verbose", "_init_setup_model", "self"}
"""Arguments of stable-baselines3's PPO that the constructor has itself."""
SMALL: Keywords = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "learning_rate": 1e-3}


class Pictures(gymnasium.Env[np.ndarray, np.int64]):
    """One step per episode: earn 1 for action 1, which costs as much, before a picture that means nothing."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, (36, 40, 3), dtype=np.uint8), {}

    def step(self, action: np.int64) -> Any:
        picture = self.np_random.integers(0, 256, (36, 40, 3), dtype=np.uint8)
        return picture, float(action), True, False, {"cost": float(action)}


class Forces(gymnasium.Env[np.ndarray, np.ndarray]):
    """One step per episode, a force as action."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(3, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        return np.zeros(3, dtype=np.float32), float(action[0]), True, False, {"cost": float(action[0])}


def test_every_argument_of_stable_baselines3_is_known() -> None:
    theirs = inspect.signature(PPO.__init__).parameters
    assert len(theirs) > 25
    assert theirs.keys() - OWN == Keywords.__annotations__.keys()
    assert PPO.policy_aliases.keys() == PPOLagrangian.policy_aliases.keys()
    for name, (allowed, _) in ABSENT.items():
        assert theirs[name].default == allowed
    of_policy = inspect.signature(ActorCriticPolicy.__init__).parameters
    for name, (allowed, _) in ABSENT_OF_POLICY.items():
        assert of_policy[name].default == allowed


def test_without_a_configuration_the_defaults_are_those_of_stable_baselines3() -> None:
    theirs = PPO("MlpPolicy", Forces(), device="cpu")
    ours = PPOLagrangian("MlpPolicy", Forces())
    for name in set(Keywords.__annotations__) - set(ABSENT) - {"learning_rate", "clip_range"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    for progress in (1.0, 0.3):
        assert ours.lr_schedule(progress) == theirs.lr_schedule(progress) == 3e-4
        assert ours.clip_range(progress) == theirs.clip_range(progress) == 0.2
    shapes = {name: tensor.shape for name, tensor in ours.policy.state_dict().items() if "cost_critics" not in name}
    assert shapes == {name: tensor.shape for name, tensor in theirs.policy.state_dict().items()}


def test_keywords_are_taken_by_their_names_there() -> None:
    given = {
        "learning_rate": 1e-3,
        "n_steps": np.int64(20),
        "batch_size": 10,
        "n_epochs": 3,
        "gamma": np.float32(0.5),
        "gae_lambda": 0.25,
        "clip_range": 0.125,
        "normalize_advantage": False,
        "ent_coef": 0.02,
        "vf_coef": 0.75,
        "max_grad_norm": 1,
        "target_kl": 0.5,
    }
    assert given.keys() == Keywords.__annotations__.keys() - ABSENT.keys()
    model = PPOLagrangian("MlpPolicy", DummyVecEnv([Forces] * 2), device="auto", **given)  # type: ignore[arg-type]
    for name, value in given.items():
        assert getattr(model.config, FIELDS.get(name, name)) == value
        found = getattr(model, name)
        if name == "learning_rate":
            assert (found(1.0), found(0.0)) == (1e-3, 1e-3)
        else:
            assert (found(1.0) if name == "clip_range" else found) == value
    assert (model.config.num_envs, model.config.final_learning_rate) == (2, 1e-3)


def test_keywords_change_the_configuration_that_is_given() -> None:
    config = PPOConfig(num_envs=4, n_steps=25, batch_size=50, n_epochs=7, hidden=(8, 4))
    model = PPOLagrangian("MlpPolicy", DummyVecEnv([Forces] * 4), config, ent_coef=0.5, gamma=0.9)
    assert (model.ent_coef, model.gamma, model.n_epochs, model.config.hidden) == (0.5, 0.9, 7, (8, 4))
    assert PPOLagrangian("MlpPolicy", DummyVecEnv([Forces] * 4), config).config == config


def test_an_agent_made_by_keywords_is_saved_with_them(tmp_path: Path) -> None:
    limit = LagrangianConfig(limit=0.5)
    given: Keywords = {**SMALL, "ent_coef": 0.25}
    model = PPOLagrangian("MlpPolicy", Forces(), lagrangian=limit, seed=0, **given).learn(16)
    model.save(tmp_path / "agent")
    loaded = PPOLagrangian.load(tmp_path / "agent", env=Forces())
    assert (loaded.config, loaded.ent_coef, loaded.n_steps) == (model.config, 0.25, 8)
    assert loaded.learn(8, reset_num_timesteps=False).num_timesteps == 24


def test_pictures_are_seen_through_convolutions(tmp_path: Path) -> None:
    model = PPOLagrangian("CnnPolicy", DummyVecEnv([Pictures] * 2), lagrangian=LagrangianConfig(limit=0.5), **SMALL)
    assert isinstance(model.policy.features_extractor, NatureCNN)
    before = [parameter.clone() for parameter in model.policy.features_extractor.parameters()]
    model.learn(32)
    after = list(model.policy.features_extractor.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    model.save(tmp_path / "agent")
    loaded = PPOLagrangian.load(tmp_path / "agent", env=DummyVecEnv([Pictures] * 2))
    seen = loaded.get_env().reset()
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])


def test_numbers_are_no_pictures() -> None:
    with pytest.raises(ConfigError, match=r"^CnnPolicy needs pictures, a Box of uint8 .*; use MlpPolicy"):
        PPOLagrangian("CnnPolicy", Forces())


def test_arguments_of_the_policy_are_taken() -> None:
    arguments = {
        "net_arch": {"pi": [5]},
        "activation_fn": torch.nn.ReLU,
        "ortho_init": False,
        "log_std_init": -2.0,
        "optimizer_class": torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.5},
        "share_features_extractor": True,
        "full_std": True,
    }
    model = PPOLagrangian("MlpPolicy", Forces(), policy_kwargs=arguments, **SMALL).learn(8)
    assert isinstance(model.policy.optimizer, torch.optim.RMSprop)
    assert model.policy.optimizer.param_groups[0]["alpha"] == 0.5
    assert model.policy.log_std.mean().item() == pytest.approx(-2.0, abs=0.1)
    assert [
        tuple(layer.weight.shape) for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "weight")
    ] == [(5, 3)]
    assert not list(model.policy.mlp_extractor.value_net.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"use_sde": True},
            r"takes use_sde=False only, because there is no state-dependent .*, got True; leave",
        ),
        ({"clip_range_vf": 0.2}, r"takes clip_range_vf=None only, because values are not clipped, got 0\.2; leave"),
        ({"rollout_buffer_class": dict}, r"takes rollout_buffer_class=None only, because the buffer has to hold costs"),
        (
            {"learning_rate": lambda left: 3e-4 * left},
            r"learning_rate must be a number, got a schedule .*falls linearly",
        ),
        (
            {"clip_range": lambda left: 0.2},
            r"clip_range must be a number, got a schedule .*; give a number, e\.g\. 0\.2",
        ),
        ({"learning_rate": "3e-4"}, r"^learning_rate must be a number, got '3e-4'; use e\.g\. 0\.0003\.$"),
        ({"n_steps": 12.5}, r"^n_steps must be a whole number, got 12\.5; use e\.g\. 2048\.$"),
        ({"n_epochs": True}, r"^n_epochs must be a whole number, got True"),
        ({"normalize_advantage": 1}, r"^normalize_advantage must be True or False, got 1"),
        ({"gamma": None}, r"^gamma must be a number, got None"),
        ({"target_kl": "0.1"}, r"^target_kl must be a number, got '0\.1'; use e\.g\. 0\.02"),
        ({"gamma": 1.5}, r"^ppo\.gamma must be between 0 and 1, got 1\.5"),
        ({"n_steps": 100}, r"batch_size must divide .* = 100, got 64; use e\.g\. 100\.$"),
        ({"n_steps": 1, "batch_size": 1}, r"must be at least 2, got 1"),
        (
            {"config": PPOConfig(n_steps=1)},
            r"A rollout needs at least 2 samples, got 1 environment with n_steps 1; give",
        ),
        ({"learning_rates": 1e-3}, r"no setting learning_rates; did you mean learning_rate, or give it in config"),
        ({"lr": 1e-3}, r"PPOLagrangian has no setting lr; it takes batch_size, "),
        (
            {"policy": "Mlp"},
            r"policy must be MlpPolicy, CnnPolicy, MultiInputPolicy or a class .*, got 'Mlp'; use",
        ),
        ({"env": None}, r"^PPOLagrangian needs an environment, got None; give one"),
        ({"n_constraints": -1}, r"^n_constraints must be a whole number >= 0, .*, got -1; leave it out\.$"),
        ({"n_constraints": "2"}, r"^n_constraints must be a whole number >= 0, .*, got '2'; leave it out\.$"),
        ({"config": 3e-4}, r"config must be a PPOConfig, got 0\.0003; give .* by name, e\.g\. learning_rate=3e-4"),
        ({"lagrangian": 25.0}, r"lagrangian must be a LagrangianConfig, got 25\.0; use e\.g\. LagrangianConfig\(limit"),
        (
            {"policy": ActorCriticPolicy},
            r"policy must be MlpPolicy, CnnPolicy, MultiInputPolicy or a class that derives",
        ),
        (
            {"policy_kwargs": {"squash_output": True}},
            r"takes squash_output=False in policy_kwargs only, because actions",
        ),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        PPOLagrangian(**{"policy": "MlpPolicy", "env": Forces(), **given})
    assert "\n" not in str(error.value)


def test_the_defaults_are_a_configuration_that_one_environment_can_fill() -> None:
    assert DEFAULTS.num_envs * DEFAULTS.n_steps % DEFAULTS.batch_size == 0
