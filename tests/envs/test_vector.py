"""The vector environment is the scalar one on the same rows and actions, and wastes no step."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.audio_gate import AudioGateEnv
from envs.vector import AudioGateVectorEnv
from supervised.errors import ConfigError

ID = "safe_rl/AudioGate-v0"


@pytest.fixture
def vector(synthetic_table: Path) -> AudioGateVectorEnv:
    return AudioGateVectorEnv(num_envs=16, table=synthetic_table)


def test_make_vec_takes_the_vector_entry_point(synthetic_table: Path) -> None:
    made = gymnasium.make_vec(ID, num_envs=3, table=str(synthetic_table), alpha=0.1)
    assert isinstance(made.unwrapped, AudioGateVectorEnv)
    observation, _ = made.reset(seed=1)
    assert observation in made.observation_space
    made.close()


def test_every_row_is_what_the_scalar_environment_says(vector: AudioGateVectorEnv, synthetic_table: Path) -> None:
    scalar = AudioGateEnv(table=synthetic_table)
    observation, info = vector.reset(seed=3)
    actions = np.arange(16) % 2
    _, rewards, _, _, after = vector.step(actions)
    for row, index in enumerate(info["index"]):
        expected, _ = scalar.reset(options={"index": index})
        last, reward, _, _, scalar_info = scalar.step(actions[row])
        assert rewards[row] == reward
        for name in expected:
            np.testing.assert_array_equal(observation[name][row], expected[name])
            np.testing.assert_array_equal(after["final_obs"][row][name], last[name])
        for name in ("cost", "score", "latency_ms", "use", "index"):
            np.testing.assert_array_equal(after["final_info"][name][row], scalar_info[name])


def test_no_step_is_wasted_on_a_reset(vector: AudioGateVectorEnv) -> None:
    vector.reset(seed=0)
    for _ in range(5):
        shown = vector.rows
        _, rewards, terminated, truncated, info = vector.step(np.zeros(16, dtype=np.int64))
        assert terminated.all()
        assert not truncated.any()
        np.testing.assert_array_equal(info["final_info"]["index"], shown)
        np.testing.assert_array_equal(rewards, vector.batches.split.score[shown, 0])  # a real answer every time
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_infos_have_the_form_of_gymnasiums_own_vector_environment(
    vector: AudioGateVectorEnv, synthetic_table: Path
) -> None:
    own = SyncVectorEnv([lambda: AudioGateEnv(table=synthetic_table)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    own.reset(seed=0)
    vector.reset(seed=0)
    _, _, _, _, theirs = own.step(np.zeros(2, dtype=np.int64))
    _, rewards, ended, _, ours = vector.step(np.zeros(16, dtype=np.int64))
    assert set(ours) <= set(theirs)
    assert set(ours["final_info"]) <= set(theirs["final_info"])
    assert rewards.dtype == np.float64
    assert ended.dtype == np.bool_
    assert ours["final_obs"].dtype == object
    assert ours["final_info"]["cost"].dtype == theirs["final_info"]["cost"].dtype


def test_rows_can_be_chosen_and_seeds_repeat(vector: AudioGateVectorEnv) -> None:
    _, info = vector.reset(options={"index": range(16)})
    assert info["index"].tolist() == list(range(16))
    first = vector.reset(seed=9)[1]["index"]
    np.testing.assert_array_equal(vector.reset(seed=9)[1]["index"], first)
    vector.set_alpha(0.0)
    vector.reset(options={"index": [1] * 16})
    assert vector.step(np.ones(16, dtype=np.int64))[1].tolist() == [1.0] * 16


def test_vector_misuse_is_one_clear_line(vector: AudioGateVectorEnv, synthetic_table: Path) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="no question is shown"):
        vector.step(np.zeros(16))
    with pytest.raises(ConfigError, match=r"options index needs 16 numbers in 0 \.\. 399"):
        vector.reset(options={"index": [400] * 16})
    vector.reset()
    with pytest.raises(gymnasium.error.InvalidAction, match="16 actions are needed"):
        vector.step(np.zeros(3))
    with pytest.raises(gymnasium.error.InvalidAction, match=r"actions must be 0 \.\. 1, got \[-1, 0\]"):
        vector.step(np.array([-1] + [0] * 15))
    with pytest.raises(ConfigError, match="num_envs must be at least 1, got 0"):
        AudioGateVectorEnv(num_envs=0, table=synthetic_table)
