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
from envs.mixture import AudioMixture
from envs.outcomes import OutcomeTable
from envs.sb3 import AudioGateVecEnv
from envs.table_format import Header
from envs.table_writer import TableWriter
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


# The token cap.


def _with_budgets(folder: Path, tokens: tuple[int, ...] | None = (0, 4, 8, 16)) -> OutcomeTable:
    """Write 40 rows whose score is a tenth of the action's number, half of them retention questions."""
    header = Header(("skip", "use_4", "use_8", "use_16"), {"question": 1}, ("vl",), action_tokens=tokens)
    writer = TableWriter(folder, header)
    score = np.tile(np.array([0.0, 0.1, 0.2, 0.3], dtype=np.float32), (40, 1))
    tensors: dict[str, np.ndarray] = {
        "question": np.arange(40, dtype=np.float32)[:, None],
        "score": score,
        "latency_ms": np.tile(np.array([10, 11, 12, 13], dtype=np.float32), (40, 1)),
        "retention_set": np.where(np.arange(40) % 2, 0, -1).astype(np.int16),
        "group": np.arange(40),
        "split": np.zeros(40, dtype=np.uint8),
    }
    writer.write_part(tensors, [{"id": str(i)} for i in range(40)], 40)
    writer.finish()
    return OutcomeTable.open(folder)


def _scores(env: AudioGateVecEnv) -> list[float]:
    """Return what the actions 0 to 3 are worth now."""
    return [round(float(env.step(np.full(env.num_envs, action))[1][0]), 6) for action in range(4)]


def test_actions_above_the_cap_are_carried_out_as_the_largest_within_it(tmp_path: Path) -> None:
    env = AudioGateVecEnv(_with_budgets(tmp_path), num_envs=40, reward=RewardConfig(0.0, 0.0), seed=0)
    env.reset()
    for cap, expected in (
        (None, [0.0, 0.1, 0.2, 0.3]),
        (16, [0.0, 0.1, 0.2, 0.3]),
        (15, [0.0, 0.1, 0.2, 0.2]),
        (8, [0.0, 0.1, 0.2, 0.2]),
        (7, [0.0, 0.1, 0.1, 0.1]),
        (1, [0.0, 0.1, 0.1, 0.1]),  # never below the smallest budget: audio stays a choice
        (None, [0.0, 0.1, 0.2, 0.3]),
    ):
        env.env_method("set_cap", cap)
        assert _scores(env) == pytest.approx(expected)


def test_a_cap_also_bounds_the_cost(tmp_path: Path) -> None:
    env = AudioGateVecEnv(_with_budgets(tmp_path), num_envs=40, seed=0)
    env.reset()
    env.set_cap(4)
    env.step(np.full(40, 3))
    np.testing.assert_allclose(env.last_cost.mean(), -0.1)  # a gain of 0.1 on every retention question


def test_a_cap_has_no_effect_where_tokens_are_unknown_or_there_is_one_budget(
    tmp_path: Path, synthetic_table: Path
) -> None:
    env = AudioGateVecEnv(_with_budgets(tmp_path, None), num_envs=40, reward=RewardConfig(0.0, 0.0), seed=0)
    env.reset()
    env.set_cap(4)
    assert _scores(env) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    header = json.loads((synthetic_table / "table.json").read_text()) | {"action_tokens": [0, 8]}
    (synthetic_table / "table.json").write_text(json.dumps(header))
    one, capped = (AudioGateVecEnv(synthetic_table, num_envs=400, seed=0) for _ in range(2))
    capped.set_cap(4)
    for env in (one, capped):
        env.reset()
    np.testing.assert_array_equal(one.step(np.ones(400))[1], capped.step(np.ones(400))[1])


# The share of audio questions.


def _audio(env: AudioGateVecEnv) -> float:
    return float(np.mean(env.batches.split.retention_set[env.rows] < 0))


@pytest.mark.parametrize("share", [0.0, 0.123, 0.8, 1.0])
def test_the_share_of_audio_questions_is_the_one_asked_for(synthetic_table: Path, share: float) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=50, seed=0)
    env.set_audio_share(share)
    env.reset()
    shown = [_audio(env)]
    for _ in range(39):
        env.step(np.zeros(50))
        shown.append(_audio(env))
    assert abs(np.mean(shown) - share) <= 1 / 2000  # of 2,000 questions at most one is still owed
    assert max(abs(value - share) for value in shown) <= 1 / 50


def test_a_mixture_shows_every_row_of_a_kind_once_before_it_shows_one_again(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=100, seed=0)  # 200 rows of either kind
    env.set_audio_share(0.8)
    env.reset()
    seen: list[int] = []
    for _ in range(5):
        seen += env.rows.tolist()
        env.step(np.zeros(100))
    counts = np.bincount(seen, minlength=400)
    audio = env.batches.split.retention_set < 0
    assert counts[audio].tolist() == [2] * 200
    assert counts[~audio].sum() == 100
    assert counts[~audio].max() == 1


def test_without_a_share_the_epochs_are_those_of_an_environment_that_never_had_one(synthetic_table: Path) -> None:
    plain, env = (AudioGateVecEnv(synthetic_table, num_envs=64, seed=5) for _ in range(2))
    plain.reset()
    env.set_audio_share(0.9)
    env.reset()
    env.set_audio_share(None)
    for _ in range(9):
        env.step(np.zeros(64))
        np.testing.assert_array_equal(env.rows, plain.rows)
        plain.step(np.zeros(64))
    assert env.natural_audio_share == 0.5


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_mean_cost_is_the_drop_of_the_whole_split_at_every_share(synthetic_table: Path, share: float) -> None:
    """USE harms one retention question in ten: 20 of 200, so the drop is 0.1 whatever is shown."""
    env = AudioGateVecEnv(synthetic_table, num_envs=100, reward=RewardConfig(0.0, 0.0), seed=1)
    env.set_audio_share(share)
    env.reset()
    costs, rewards = [], []
    for _ in range(10 * 4):  # 4,000 questions: whole epochs of both kinds
        rewards.append(env.step(np.ones(100))[1].mean())
        costs.append(env.last_cost[:, 0].mean())
    assert np.mean(costs) == pytest.approx(0.1, rel=1e-5)
    assert np.mean(rewards) == pytest.approx(share + (1 - share) * 0.9, rel=1e-5)  # of the mixture, on purpose


def test_costs_have_the_weight_of_the_share_they_were_drawn_at(synthetic_table: Path) -> None:
    scalar = AudioGateEnv(table=synthetic_table)
    env = AudioGateVecEnv(synthetic_table, num_envs=40, seed=1)
    env.set_audio_share(0.8)
    env.reset()
    compared = 0
    for share in (0.8, 0.8, 0.3, None, None):  # the share while these rows were drawn
        rows = env.rows
        env.set_audio_share({0: 0.8, 1: 0.3}.get(compared) if compared < 2 else None)
        _, rewards, _, infos = env.step(np.ones(40))
        weight = 1.0 if share is None else 0.5 / (1 - share)
        for i, row in enumerate(rows):
            scalar.reset(options={"index": int(row)})
            _, reward, _, _, info = scalar.step(1)
            assert rewards[i] == np.float32(reward)
            assert infos[i]["cost"][0] == pytest.approx(info["cost"][0] * weight, rel=1e-6)
        compared += 1


def test_costs_that_smoothing_gives_to_audio_questions_are_weighted_too(synthetic_table: Path) -> None:
    """A cost of 1 on every row: its mean is 1 at every share only if both kinds have their weight."""
    mixture = AudioMixture(np.arange(50) < 20, seed=0)
    for share in (0.1, 0.4, 0.9):
        rows = mixture.draw(1000, share)
        assert mixture.cost_weights(rows, share).mean() == pytest.approx(1.0, abs=2e-3)
    np.testing.assert_array_equal(mixture.cost_weights(np.arange(50), 0.4), np.ones(50, dtype=np.float32))
    one_kind = mixture.cost_weights(mixture.draw(10, 1.0), 1.0)
    np.testing.assert_allclose(one_kind, 0.4)


def test_a_restored_environment_goes_on_with_cap_and_share(tmp_path: Path) -> None:
    table = _with_budgets(tmp_path)
    env = AudioGateVecEnv(table, num_envs=7, seed=7)
    env.set_cap(8)
    env.set_audio_share(0.77)
    env.reset()
    for _ in range(9):
        env.step(np.full(7, 3))
    state = json.loads(json.dumps(env.get_state()))
    again = AudioGateVecEnv(table, num_envs=7, seed=99)
    again.set_state(state)
    for _ in range(30):
        ours, theirs = again.step(np.full(7, 3)), env.step(np.full(7, 3))
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(again.last_cost, env.last_cost)
        np.testing.assert_array_equal(again.rows, env.rows)
    again.set_state({name: state[name] for name in ("generator", "cursor", "rows", "alpha")})  # of an earlier version
    assert again.cap is None
    assert again.audio_share is None


def test_equal_seeds_give_equal_mixtures_and_a_new_seed_another(synthetic_table: Path) -> None:
    drawn = []
    for seed in (3, 3, 4):
        env = AudioGateVecEnv(synthetic_table, num_envs=32, seed=0)
        env.set_audio_share(0.9)
        env.seed(seed)
        env.reset()
        drawn.append(env.rows.tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_share_that_cannot_be_is_refused(synthetic_table: Path) -> None:
    env = AudioGateVecEnv(synthetic_table, num_envs=4, seed=0)
    with pytest.raises(ConfigError, match=r"share of audio questions must lie in \[0, 1\], got 1\.5; use e\.g\. 0\.8"):
        env.set_audio_share(1.5)
    env.batches.split.retention_set[:] = -1
    with pytest.raises(ConfigError, match=r"has no retention questions; leave curriculum\.audio_share_initial"):
        env.set_audio_share(0.5)
