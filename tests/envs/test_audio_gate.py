"""The scalar environment: both official checkers, its formulas, its errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import envs.source
from envs.audio_gate import AudioGateEnv
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable
from envs.reward import RewardTerms, cost_matrix, retention_rates
from envs.source import TableSource
from envs.table_format import Header
from envs.table_writer import TableWriter
from supervised.errors import ConfigError

ID = "safe_rl/AudioGate-v0"


@pytest.fixture
def env(synthetic_table: Path) -> Iterator[AudioGateEnv]:
    made = AudioGateEnv(table=synthetic_table, render_mode="ansi")
    yield made
    made.close()


def test_gymnasium_checks_the_environment_without_a_warning(synthetic_table: Path) -> None:
    made = gymnasium.make(ID, table=str(synthetic_table))
    check_env(made.unwrapped)
    made.close()
    made.close()


def test_stable_baselines3_checks_the_environment_without_a_warning(env: AudioGateEnv) -> None:
    check_env_of_sb3(env, warn=True, skip_render_check=False)


def test_three_actions_one_feature_and_no_retention_set_pass_both_checkers(tmp_path: Path) -> None:
    rows = 4
    tensors: dict[str, np.ndarray] = {
        "question": np.eye(rows, 3, dtype=np.float32),
        "score": np.tile(np.array([0, 0.5, 1], dtype=np.float32), (rows, 1)),
        "latency_ms": np.tile(np.array([10, 20, 40], dtype=np.float32), (rows, 1)),
        "retention_set": np.full(rows, -1, dtype=np.int16),
        "group": np.arange(rows, dtype=np.int64),
        "split": np.zeros(rows, dtype=np.uint8),
    }
    writer = TableWriter(tmp_path, Header(("skip", "use_4", "use_16"), {"question": 3}))
    writer.write_part(tensors, [{}] * rows, rows)
    writer.finish(60)
    env = gymnasium.make(ID, table=str(tmp_path), alpha=0.6).unwrapped
    check_env(env)
    check_env_of_sb3(env)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(2)
    assert reward == pytest.approx(1 - 0.6 * 30 / 60)
    assert info["cost"].shape == (0,)
    assert info["prediction"] == ""


def test_make_without_arguments_opens_the_table_that_ships(
    synthetic_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envs.source, "SAMPLE_TABLE", synthetic_table)
    made = gymnasium.make(ID)
    observation, _ = made.reset(seed=0)
    assert observation in made.observation_space
    made.close()


def test_the_specification_is_plain_json(synthetic_table: Path) -> None:
    made = gymnasium.make(ID, table=str(synthetic_table), alpha=0.2)
    assert made.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(made.spec.to_json()))
    assert isinstance(again.unwrapped, AudioGateEnv)
    assert again.unwrapped.reward_config.alpha == 0.2


def test_reward_and_cost_are_those_of_the_whole_table(env: AudioGateEnv, synthetic_table: Path) -> None:
    train = OutcomeTable.open(synthetic_table).split("train")
    config = RewardConfig()
    reward = RewardTerms(train.score, train.latency_ms, train.retention_set, 50.0, config).matrix()
    cost = cost_matrix(train.score, train.retention_set, retention_rates(train.retention_set, 1))
    for index in range(40):
        for action in (0, 1):
            env.reset(options={"index": index})
            _, value, terminated, truncated, info = env.step(action)
            assert value == float(reward[index, action])
            np.testing.assert_array_equal(info["cost"], cost[index, :, action])
            assert (terminated, truncated) == (True, False)
            assert info["cost"].dtype == np.float32
            assert info["use"] is (action == 1)
            assert info["score"] == train.score[index, action]
            assert info["latency_ms"] == train.latency_ms[index, action]


def test_the_info_names_the_question(env: AudioGateEnv) -> None:
    _, info = env.reset(options={"index": 0})
    assert info == {"index": 0, "id": "row-0", "question": "question 0 ?", "type": "vl", "retention_set": "vl"}
    _, info = env.reset(options={"index": 1})
    assert info["retention_set"] == ""
    assert env.step(1)[4]["prediction"] == "yes"


def test_equal_seeds_give_equal_questions_and_alpha_can_change(env: AudioGateEnv) -> None:
    first = [env.reset(seed=5)[1]["index"], *[env.reset()[1]["index"] for _ in range(5)]]
    assert first == [env.reset(seed=5)[1]["index"], *[env.reset()[1]["index"] for _ in range(5)]]
    assert len(set(first)) > 1
    env.set_alpha(0.0)
    env.reset(options={"index": 1})
    assert env.step(1)[1] == 1.0
    env.set_alpha(2.0)
    env.reset(options={"index": 1})
    assert env.step(1)[1] == 0.5  # 1 - 2 * 12.5 / 50


def test_rendering_tells_question_and_outcome(env: AudioGateEnv) -> None:
    env.reset(options={"index": 1})
    assert env.render() == "row-1: question 1 ?"
    env.step(1)
    assert env.render() == "row-1: question 1 ?\nuse -> 'yes', score 1.00, 22.5 ms, reward 0.850"


def test_misuse_is_one_clear_line(env: AudioGateEnv, synthetic_table: Path) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"call reset\(\) before step\(\)"):
        env.step(0)
    env.reset()
    with pytest.raises(gymnasium.error.InvalidAction, match=r"action must be 0 \.\. 1, got 2"):
        env.step(2)
    env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="one step long"):
        env.step(0)
    with pytest.raises(ConfigError, match=r"options index must lie in 0 \.\. 399, got 400"):
        env.reset(options={"index": 400})
    with pytest.raises(ConfigError, match="render_mode must be None or 'ansi', got 'human'"):
        AudioGateEnv(table=synthetic_table, render_mode="human")
    with pytest.raises(ConfigError, match=r"reward\.alpha must be a finite number >= 0"):
        AudioGateEnv(table=synthetic_table, alpha=-1)
    source = TableSource(OutcomeTable.open(synthetic_table).split("test"))
    with pytest.raises(ConfigError, match="table and source are both given"):
        AudioGateEnv(table=synthetic_table, source=source)
    with pytest.raises(ConfigError, match="source needs a normaliser"):
        AudioGateEnv(source=source)
