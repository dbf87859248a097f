"""The stable-baselines3 face: gathers, epochs without replacement, and exact continuation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from envs import batch
from envs.audio_gate import AudioGateEnv
from envs.batch import RowSampler
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable
from envs.sb3 import AudioGateVecEnv
from supervised.errors import CheckpointError, ConfigError


def test_rows_rewards_and_costs_are_those_of_the_scalar_environment(synthetic_table: Path) -> None:
    scalar = AudioGateEnv(table=synthetic_table)
    env = AudioGateVecEnv(synthetic_table, num_envs=32, seed=1)
    observation = env.reset()
    rows, actions = env.rows, np.arange(32) % 2
    _, rewards, dones, infos = env.step(actions)
    assert dones.all()
    for i, index in enumerate(rows):
        expected, _ = scalar.reset(options={"index": int(index)})
        _, reward, _, _, info = scalar.step(actions[i])
        assert rewards[i] == np.float32(reward)
        np.testing.assert_array_equal(infos[i]["cost"], info["cost"])
        np.testing.assert_array_equal(env.last_cost[i], info["cost"])
        for name in expected:
            np.testing.assert_array_equal(observation[name][i], expected[name])


def test_an_epoch_shows_every_row_once(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=100, seed=0)
    env.reset()
    seen = []
    for _ in range(4):
        seen.append(env.rows)
        env.step(np.zeros(100))
    assert sorted(np.concatenate(seen).tolist()) == list(range(400))
    assert seen[0].tolist() != sorted(seen[0].tolist())


def test_epochs_follow_each_other_within_a_batch() -> None:
    sampler = RowSampler(10, seed=0)
    drawn = sampler.draw(25)
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:20].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:20].tolist()


def test_a_restored_environment_goes_on_to_the_row(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=150, seed=7)  # epochs end within batches
    env.reset()
    for _ in range(5):
        env.step(np.zeros(150))
    env.set_alpha(0.3)
    state = json.loads(json.dumps(env.get_state()))
    again = AudioGateVecEnv(synthetic_table, num_envs=150, seed=99)
    shown = again.set_state(state)
    np.testing.assert_array_equal(again.rows, env.rows)
    np.testing.assert_array_equal(shown["image"], env.observe(env.rows)["image"])
    for _ in range(7):
        ours, theirs = again.step(np.ones(150)), env.step(np.ones(150))
        np.testing.assert_array_equal(ours[0]["question"], theirs[0]["question"])
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(again.rows, env.rows)


def test_the_state_of_another_table_is_refused(synthetic_table: Path) -> None:
    state = AudioGateVecEnv(synthetic_table, num_envs=8, seed=0)
    state.reset()
    with pytest.raises(CheckpointError, match="state is for 8 questions of another table, here are 4"):
        AudioGateVecEnv(synthetic_table, num_envs=4).set_state(state.get_state())


def test_a_place_beyond_the_epoch_is_refused(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=4, seed=0)
    env.reset()
    with pytest.raises(
        CheckpointError, match="state is at row 401 of an epoch of 400; resume with the table of the run"
    ):
        env.set_state(env.get_state() | {"cursor": 401})


def test_equal_seeds_give_equal_rows(synthetic_table: Path) -> None:
    first, second = (AudioGateVecEnv(synthetic_table, num_envs=8, seed=seed) for seed in (3, 4))
    first.reset()
    second.seed(3)
    second.reset()
    np.testing.assert_array_equal(first.rows, second.rows)
    second.reset()
    assert first.rows.tolist() != second.rows.tolist()


def test_alpha_changes_the_rewards_from_the_next_step_on(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=400, reward=RewardConfig(alpha=0.0, gamma=0.0), seed=0)
    env.reset()
    # All USE: mean score is 1 - 1/20.
    assert env.step(np.ones(400))[1].mean() == pytest.approx(0.95)
    env.env_method("set_alpha", 0.4)
    assert env.step(np.ones(400))[1].mean() == pytest.approx(0.85)


def test_the_flat_observation_is_the_features_side_by_side(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=4, seed=0, flat=True)
    flat = env.reset()
    assert flat.shape == (4, 21)
    assert env.observation_space.shape == (21,)
    features = AudioGateVecEnv(synthetic_table, num_envs=4, seed=0).observe(env.rows)
    np.testing.assert_array_equal(flat, np.concatenate([features[name] for name in features], axis=1))


def test_a_table_too_large_to_keep_gives_the_same_observations(
    synthetic_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = AudioGateVecEnv(synthetic_table, num_envs=64, seed=0).reset()
    monkeypatch.setattr(batch, "_CACHE_BYTES", 0)
    read = AudioGateVecEnv(synthetic_table, num_envs=64, seed=0).reset()
    for name in kept:
        np.testing.assert_array_equal(kept[name], read[name])


def test_what_is_handed_out_aliases_nothing(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=4, seed=0)
    observation = env.reset()
    before = {name: values.copy() for name, values in observation.items()}
    rows = env.rows
    for values in observation.values():
        values[:] = 99
    _, reward, _, infos = env.step(np.ones(4))
    reward[:] = 99
    infos[0]["cost"][:] = 99
    for name, values in env.observe(rows).items():
        np.testing.assert_array_equal(values, before[name])
    assert env.batches.reward.max() <= 1
    assert env.batches.cost.max() <= 2.0


def test_plain_ppo_learns_the_known_optimum(synthetic_table: Path) -> None:
    env = VecMonitor(AudioGateVecEnv(synthetic_table, num_envs=400, reward=RewardConfig(0.4, 0.1), seed=0))
    model = PPO(
        "MultiInputPolicy", env, n_steps=1, batch_size=400, n_epochs=8, learning_rate=3e-3, seed=0, device="cpu"
    )
    model.learn(16_000)
    test = AudioGateVecEnv(OutcomeTable.open(synthetic_table).split("test"), num_envs=200, seed=0)
    actions, _ = model.predict(test.reset(), deterministic=True)
    needed = test.batches.split.score[test.rows, 0] == 0
    assert (actions == needed).mean() > 0.95


def test_a_batch_of_no_questions_is_refused(synthetic_table: Path) -> None:
    with pytest.raises(ConfigError, match="num_envs must be at least 1, got 0"):
        AudioGateVecEnv(synthetic_table, num_envs=0)
