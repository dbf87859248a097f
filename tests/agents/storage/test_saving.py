from __future__ import annotations

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import save as to_safetensors
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.config import LagrangianConfig, PPOConfig
from agents.cost_policy import CostActorCriticPolicy
from agents.ppo_lagrangian import PPOLagrangian
from agents.retention import RetentionBuffer
from agents.storage.archive import CONTENTS, TENSORS, write_archive
from agents.storage.space_json import describe_space, restore_space
from supervised.errors import ConfigError

CONFIG = PPOConfig(num_envs=4, n_steps=25, batch_size=50, n_epochs=2, hidden=(8, 4), critic_hidden=(5,))
LIMITS = LagrangianConfig(limit=(0.5, 1.0), lr=0.1, update="pid", smoothing=0.25)


def _env(runner: Any, copies: int = 4) -> DummyVecEnv:
    return DummyVecEnv([runner] * copies)


@pytest.fixture
def model(runner: Any) -> PPOLagrangian:
    return PPOLagrangian("MlpPolicy", _env(runner), CONFIG, LIMITS, seed=0).learn(300)


def test_a_saved_agent_comes_back_whole(model: PPOLagrangian, runner: Any, tmp_path: Path) -> None:
    model.set_limits((0.25, 2.0))
    model.save(tmp_path / "agent")
    loaded = PPOLagrangian.load(tmp_path / "agent", env=_env(runner))
    assert (loaded.config, loaded.lagrangian, loaded.num_timesteps) == (CONFIG, LIMITS, 300)
    assert loaded.multiplier.state_dict() == model.multiplier.state_dict()
    assert loaded.multiplier.value.max() > 0
    for name, one in model.get_parameters()["policy"].items():
        assert torch.equal(one, loaded.get_parameters()["policy"][name])
    ours, theirs = model.policy.optimizer.state_dict()["state"], loaded.policy.optimizer.state_dict()["state"]
    assert len(ours) == len(list(model.policy.parameters()))
    for index, slots in ours.items():
        assert all(torch.equal(tensor, theirs[index][slot]) for slot, tensor in slots.items())
    assert loaded.observation_space == model.observation_space
    assert loaded.action_space == model.action_space


def test_a_loaded_agent_predicts_without_an_environment_and_trains_on_with_one(
    model: PPOLagrangian, runner: Any, tmp_path: Path
) -> None:
    observations = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    model.save(str(tmp_path / "agent.zip"))
    alone = PPOLagrangian.load(str(tmp_path / "agent.zip"))
    assert np.array_equal(
        alone.predict(observations, deterministic=True)[0], model.predict(observations, None, None, True)[0]
    )
    with pytest.raises(ConfigError, match=r"has no environment to learn on; give PPOLagrangian\.load\("):
        alone.learn(100)
    alone.set_env(_env(runner))
    weights = torch.cat([parameter.flatten() for parameter in alone.policy.parameters()]).clone()
    alone.learn(100, reset_num_timesteps=False)
    assert alone.num_timesteps == 400
    assert not torch.equal(weights, torch.cat([parameter.flatten() for parameter in alone.policy.parameters()]))
    one = PPOLagrangian.load(tmp_path / "agent.zip", env=_env(runner, 1), device="cpu")
    assert np.isfinite(evaluate_policy(one, _env(runner, 1), n_eval_episodes=2, warn=False)[0])


def test_two_saves_of_one_agent_are_the_same_bytes_without_a_pickle(model: PPOLagrangian, tmp_path: Path) -> None:
    model.save(tmp_path / "a.zip")
    stream = io.BytesIO()
    model.save(stream)
    assert stream.getvalue() == (tmp_path / "a.zip").read_bytes()
    with zipfile.ZipFile(stream) as archive:
        assert sorted(archive.namelist()) == [CONTENTS, TENSORS]
    stream.seek(0)
    assert PPOLagrangian.load(stream).num_timesteps == 300


def test_weights_alone_go_from_file_to_agent_and_back(model: PPOLagrangian, runner: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "agent.zip")
    fresh = PPOLagrangian("MlpPolicy", _env(runner), CONFIG, LIMITS, seed=7)
    fresh.set_parameters(tmp_path / "agent.zip")
    assert fresh.num_timesteps == 0
    for name, one in model.get_parameters()["policy"].items():
        assert torch.equal(one, fresh.get_parameters()["policy"][name])
    fresh.set_parameters(model.get_parameters())


def test_callbacks_of_stable_baselines3_save_agents_that_load(runner: Any, tmp_path: Path) -> None:
    model = PPOLagrangian("MlpPolicy", _env(runner), CONFIG, LIMITS, seed=0)
    evaluation = EvalCallback(
        _env(runner), n_eval_episodes=2, eval_freq=25, best_model_save_path=str(tmp_path), verbose=0, warn=False
    )
    model.learn(200, [evaluation, CheckpointCallback(25, str(tmp_path), "step")])
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == [
        "best_model.zip", "step_100_steps.zip", "step_200_steps.zip"
    ]  # fmt: skip
    for path in tmp_path.glob("*.zip"):
        assert PPOLagrangian.load(path).n_constraints == 2


def test_arguments_of_the_policy_are_kept_and_what_a_file_cannot_hold_is_asked_for(runner: Any, tmp_path: Path) -> None:
    class Own(CostActorCriticPolicy):
        pass

    arguments: dict[str, Any] = {"activation_fn": torch.nn.ReLU, "net_arch": {"pi": [6], "vf": [5]}}
    PPOLagrangian("MlpPolicy", _env(runner), CONFIG, LIMITS, policy_kwargs=arguments).save(tmp_path / "relu")
    loaded = PPOLagrangian.load(tmp_path / "relu")
    assert loaded.given_policy_kwargs == arguments
    assert isinstance(loaded.policy.mlp_extractor.policy_net[1], torch.nn.ReLU)

    PPOLagrangian(Own, _env(runner), CONFIG, LIMITS).save(tmp_path / "own")
    with pytest.raises(ValueError, match=r"made with policy of its own; give load the same policy=\.\.\."):
        PPOLagrangian.load(tmp_path / "own")
    assert isinstance(PPOLagrangian.load(tmp_path / "own", policy=Own).policy, Own)

    class Activation(torch.nn.Tanh):
        pass

    PPOLagrangian("MlpPolicy", _env(runner), CONFIG, LIMITS, policy_kwargs={"activation_fn": Activation}).save(
        tmp_path / "activation"
    )
    with pytest.raises(ValueError, match=r"made with policy_kwargs of its own; give load the same policy_kwargs"):
        PPOLagrangian.load(tmp_path / "activation")
    PPOLagrangian.load(tmp_path / "activation", policy_kwargs={"activation_fn": Activation})


def test_an_agent_measured_on_a_retention_buffer_asks_for_it_before_it_trains_on(bandit: Any, tmp_path: Path) -> None:
    x, reward = np.eye(5), np.ones((5, 2))
    cost = np.stack([np.zeros(5), np.ones(5)], axis=1)[:, None, :]
    config = dataclasses.replace(CONFIG, n_steps=1, num_envs=50)
    retention = RetentionBuffer(x, cost)
    model = PPOLagrangian("MlpPolicy", bandit(x, reward, cost, 50), config, retention=retention, seed=0).learn(50)
    model.save(tmp_path / "agent")
    loaded = PPOLagrangian.load(tmp_path / "agent", env=bandit(x, reward, cost, 50))
    with pytest.raises(ValueError, match=r"measured its cost on a retention buffer.*retention=\.\.\.\)"):
        loaded.learn(50)
    PPOLagrangian.load(tmp_path / "agent", env=bandit(x, reward, cost, 50), retention=retention).learn(50)


def test_what_does_not_fit_is_told_of_the_argument_and_not_of_the_file(model: PPOLagrangian, tmp_path: Path) -> None:
    model.save(tmp_path / "agent")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"retention": RetentionBuffer(np.eye(2), np.ones((2, 1, 2)))}, r"^A retention buffer needs a Discrete"),
        ({"policy": torch.nn.Linear}, r"^policy must be MlpPolicy, CnnPolicy, .* got <class 'torch"),
        ({"policy_kwargs": {"use_sde": True}}, r"^PPOLagrangian takes use_sde=False in policy_kwargs only"),
    ]
    for given, told in wrong:
        with pytest.raises(ConfigError, match=told):
            PPOLagrangian.load(tmp_path / "agent", **given)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-np.inf, 0.0]), np.array([np.inf, 5.0]), dtype=np.float64),
        spaces.Box(0, 255, (2, 3, 4), np.uint8),
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(4),
        spaces.Dict({"a": spaces.Discrete(2), "b.low": spaces.Box(-1, 1, (2,), np.float32)}),
    ],
)
def test_a_space_comes_back_equal(space: spaces.Space[Any]) -> None:
    description, arrays = describe_space(space, "x")
    assert restore_space(json.loads(json.dumps(description)), "x", arrays) == space


def test_a_space_that_no_agent_can_work_on_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be Box, Discrete, MultiDiscrete, MultiBinary or a Dict of them, got"):
        describe_space(spaces.Tuple([spaces.Discrete(2)]), "x")


# -- files that are none ---------------------------------------------------------------------------------------------


class _Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a file was executed')",))


def _refused(path: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PPOLagrangian.load(path)
    assert "\n" not in str(error.value)


def test_pickles_in_any_dress_are_refused_and_never_run(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "pickle.zip").write_bytes(pickle.dumps(_Bomb()))
    _refused(tmp_path / "pickle.zip", r"is damaged, or no agent of PPOLagrangian\.save")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data", pickle.dumps(_Bomb()))
    _refused(tmp_path / "data.zip", r"holds \['data'\], not an agent")
    with zipfile.ZipFile(tmp_path / "members.zip", "w") as archive:
        archive.writestr(CONTENTS, pickle.dumps(_Bomb()))
        archive.writestr(TENSORS, pickle.dumps(_Bomb()))
    _refused(tmp_path / "members.zip", r"is damaged, or no agent")
    PPO("MlpPolicy", _env(runner), n_steps=25, batch_size=50, device="cpu").save(tmp_path / "sb3.zip")
    _refused(tmp_path / "sb3.zip", r"pickles of stable-baselines3 are not opened")


def test_a_missing_a_cut_and_a_compressed_file_are_refused(model: PPOLagrangian, tmp_path: Path) -> None:
    _refused(tmp_path / "nothing", r"No agent at .*nothing\.zip; give a file that PPOLagrangian\.save wrote")
    model.save(tmp_path / "agent.zip")
    whole = (tmp_path / "agent.zip").read_bytes()
    for cut in (0, 100, len(whole) - 30):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        _refused(tmp_path / "cut.zip", r"is damaged, or no agent")
    (tmp_path / "flipped.zip").write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    _refused(tmp_path / "flipped.zip", r"is damaged, or no agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as old, zipfile.ZipFile(tmp_path / "small.zip", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    _refused(tmp_path / "small.zip", r"is compressed, which PPOLagrangian\.save never does")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, r"is \('other', 1\), this program reads safe-rl-agent version 1"),
        ({"version": 2}, r"is \('safe-rl-agent', 2\), this program reads"),
        ({"config": {"hidden": [8, 4], "code": "x"}}, r"does not fit together \(TypeError: .*'code'"),
        ({"config": {"hidden": [8, 4], "n_steps": 0}}, r"does not fit together \(ConfigError: ppo\.n_steps must be"),
        ({"lagrangian": {"limit": [-1, 0]}}, r"does not fit together \(ConfigError: lagrangian\.limit must be"),
        (
            {"policy": "os.system"},
            r"does not fit together \(ConfigError: policy must be MlpPolicy, .* got 'os\.system'",
        ),
        ({"policy_kwargs": {"activation_fn": {"torch.nn": "Module.apply"}}}, r"torch\.nn has no module Module\.apply"),
        ({"policy_kwargs": {"activation_fn": {"torch.nn": "functional"}}}, r"torch\.nn has no module functional"),
        ({"policy_kwargs": {"surprise": 1}}, r"does not fit together \(TypeError: .*surprise"),
        ({"action_space": {"kind": "Tuple"}}, r"does not fit together \(KeyError: 'kind Tuple'"),
        ({"action_space": {"kind": "Discrete", "n": 3, "start": 0}}, r"does not fit together \(RuntimeError"),
        ({"progress": {}}, r"does not fit together \(KeyError: 'multiplier'"),
        ({"observation_space": 3}, r"does not fit together \(TypeError"),
    ],
)
def test_contents_that_make_no_agent_are_refused_in_one_line(
    model: PPOLagrangian, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model.save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as old, zipfile.ZipFile(tmp_path / "other.zip", "w") as new:
        new.writestr(CONTENTS, json.dumps({**json.loads(old.read(CONTENTS)), **change}))
        new.writestr(TENSORS, old.read(TENSORS))
    _refused(tmp_path / "other.zip", message)


def test_a_file_without_the_weights_is_refused(model: PPOLagrangian, tmp_path: Path) -> None:
    model.save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as old:
        contents = json.loads(old.read(CONTENTS))
    write_archive(tmp_path / "empty.zip", contents, {})
    _refused(tmp_path / "empty.zip", r"does not fit together \(KeyError: 'observation\.low'")
    with zipfile.ZipFile(tmp_path / "list.zip", "w") as new:
        new.writestr(CONTENTS, "[1]")
        new.writestr(TENSORS, to_safetensors({}))
    _refused(tmp_path / "list.zip", r"this program reads safe-rl-agent version 1")


def test_an_environment_of_other_spaces_is_refused(model: PPOLagrangian, knapsack: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=r"Observation spaces do not match: Box.* != Box"):
        PPOLagrangian.load(tmp_path / "agent.zip", env=DummyVecEnv([lambda: knapsack([1.0, 2.0, 3.0], 2)]))


def test_settings_may_change_when_an_agent_is_loaded(model: PPOLagrangian, runner: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "agent")
    loaded = PPOLagrangian.load(tmp_path / "agent", env=_env(runner, 2), learning_rate=1e-5, batch_size=25)
    assert loaded.config == dataclasses.replace(
        CONFIG, num_envs=2, batch_size=25, learning_rate=1e-5, final_learning_rate=1e-5
    )
    for (name, one), other in zip(model.policy.named_parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other), name
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.metrics["train/learning_rate"] == 1e-5


def test_the_defaults_of_stable_baselines3s_load_change_nothing(
    model: PPOLagrangian, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "agent")
    loaded = PPOLagrangian.load(tmp_path / "agent", None, "cpu", None, False, True)
    assert (loaded.config, capsys.readouterr().out) == (CONFIG, "")
    PPOLagrangian.load(tmp_path / "agent", print_system_info=True)
    assert "Stable-Baselines3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"custom_objects": {"lr_schedule": 1}}, r"custom_objects=None only, because the file holds plain values, got"),
        ({"force_reset": False}, r"force_reset=True only, because a saved agent starts new episodes, got False; leave"),
        ({"verbose": 1}, r"load takes no verbose; load the agent and then set model\.verbose\.$"),
        ({"seed": 1}, r"load takes no seed; load the agent and then call model\.set_random_seed\(seed\)\.$"),
        ({"learning_rat": 1e-4}, r"PPOLagrangian has no setting learning_rat; did you mean learning_rate"),
        ({"clip_range_vf": 0.1}, r"takes clip_range_vf=None only, because values are not clipped, got 0\.1"),
        ({"batch_size": 33}, r"batch_size"),
    ],
)
def test_what_load_does_not_take_is_refused_by_name_in_one_line(
    model: PPOLagrangian, tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    model.save(tmp_path / "agent")
    with pytest.raises(ConfigError, match=told) as caught:
        PPOLagrangian.load(tmp_path / "agent", **given)
    assert "\n" not in str(caught.value)


def test_a_policy_alone_is_neither_written_nor_opened_as_a_pickle(model: PPOLagrangian, tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    with pytest.raises(ConfigError, match=r"has no file here; give PPOLagrangian\.save a path"):
        model.policy.save(str(path))
    assert not path.exists()
    torch.save(_Bomb(), path)
    with pytest.raises(ConfigError, match=r"not opened, got .*policy\.pth; take PPOLagrangian\.load"):
        CostActorCriticPolicy.load(str(path))


def test_parts_of_a_save_cannot_be_left_out(model: PPOLagrangian, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"always writes the same parts; leave exclude and include out"):
        model.save(tmp_path / "agent.zip", exclude=["multiplier"])
