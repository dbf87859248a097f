from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from agents.config import AgentConfig, CurriculumConfig, LagrangianConfig, PPOConfig, SmoothingConfig
from agents.curriculum import Curriculum
from agents.ppo_lagrangian import PPOLagrangian
from agents.train import train_agent
from envs.outcomes import OutcomeTable
from envs.sb3 import AudioGateVecEnv
from envs.table_format import Header
from envs.table_writer import TableWriter
from supervised.errors import ConfigError

CONFIG = PPOConfig(num_envs=500, batch_size=500, hidden=(8,))


class _Trace(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.alphas: list[float] = []

    def _on_step(self) -> bool:
        self.alphas.append(self.training_env.get_attr("alpha")[0])
        return True


def _model(bandit: Any) -> PPOLagrangian:
    cost = np.array([[[0.0, 1.0]]])
    return PPOLagrangian(
        "MlpPolicy",
        bandit(np.ones((1, 1)), np.zeros((1, 2)), cost, 500),
        CONFIG,
        LagrangianConfig(limit=0.1, lr=9.0),
        seed=0,
    )


def test_alpha_follows_absolute_steps_also_in_a_second_learn(bandit: Any) -> None:
    model, trace = _model(bandit), _Trace()
    curriculum = Curriculum(CurriculumConfig(steps=2_000), 0.8)
    model.learn(1_000, [curriculum, trace])
    model.learn(2_000, [curriculum, trace], reset_num_timesteps=False)
    np.testing.assert_allclose(trace.alphas, [0.0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_the_multiplier_does_not_wind_up_while_alpha_moves(bandit: Any) -> None:
    model = _model(bandit)  # half of the actions cost 1: far above the limit
    curriculum = Curriculum(CurriculumConfig(steps=2_000), 0.8)
    model.learn(2_000, curriculum)
    assert model.multiplier.value[0] == 0.0
    model.learn(500, curriculum, reset_num_timesteps=False)
    assert model.multiplier.value[0] > 0.0


def test_the_cap_rises_from_its_start_to_the_largest_budget() -> None:
    config = CurriculumConfig(steps=1_200, cap_initial=4)
    assert [config.cap(step, 16) for step in (0, 399, 400, 800, 1_199, 1_200, 9_000)] == [4, 7, 8, 12, 15, None, None]
    assert config.cap(0, 4) is None  # nothing is above it
    assert CurriculumConfig(cap_initial=None).cap(0, 16) is None
    assert CurriculumConfig(steps=0).cap(0, 16) is None


def test_the_audio_share_goes_to_the_tables_own_from_either_side() -> None:
    config = CurriculumConfig(steps=1_000, audio_share_initial=0.9)
    found = [config.audio_share(step, 0.4) for step in (0, 500, 999, 1_000)]
    assert found[:3] == pytest.approx([0.9, 0.65, 0.4005])
    assert found[3] is None
    assert config.audio_share(500, 0.95) == pytest.approx(0.925)
    assert CurriculumConfig().audio_share(0, 0.4) is None


def test_the_audio_share_may_end_elsewhere_or_stay_where_it_is() -> None:
    config = CurriculumConfig(steps=1_000, audio_share_initial=0.9, audio_share_final=0.35)
    assert [config.audio_share(step, 0.1) for step in (0, 500, 1_000, 9_000)] == [0.9, 0.625, 0.35, 0.35]
    constant = CurriculumConfig(steps=1_000, audio_share_final=0.35)
    assert [constant.audio_share(step, 0.1) for step in (0, 500, 1_000)] == [0.35] * 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cap_initial", 0, r"curriculum\.cap_initial must be a whole number of at least 1, or null, got 0"),
        ("audio_share_final", -0.1, r"curriculum\.audio_share_final must be between 0 and 1, or null, got -0\.1"),
        ("audio_share_initial", 1.5, r"curriculum\.audio_share_initial must be between 0 and 1, or null, got 1\.5"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CurriculumConfig(**{name: value})


class _Seen(BaseCallback):
    """Keeps cap, share asked for and share shown of every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int | None, float | None, float]] = []

    def _on_rollout_start(self) -> None:
        env = self.training_env
        assert isinstance(env, AudioGateVecEnv)
        self.seen.append((env.cap, env.audio_share, float(np.mean(env.batches.split.retention_set[env.rows] < 0))))

    def _on_step(self) -> bool:
        return True


BUDGETED = AgentConfig(
    ppo=PPOConfig(num_envs=100, batch_size=100, hidden=(8,), n_epochs=2, learning_rate=1e-2),
    lagrangian=LagrangianConfig(limit=0.01),
    curriculum=CurriculumConfig(steps=800, cap_initial=2, audio_share_initial=0.9),
    smoothing=SmoothingConfig(trees=0),
    total_timesteps=1_200,
    checkpoint_every=1,
)


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> OutcomeTable:
    """400 train and 200 validation rows, half audio questions; of 2, 4 and 8 tokens the second suffices."""
    folder, rng, n = tmp_path_factory.mktemp("budgeted"), np.random.default_rng(0), 600
    header = Header(("skip", "use_2", "use_4", "use_8"), {"question": 2}, ("vl",), action_tokens=(0, 2, 4, 8))
    audio = np.arange(n) % 2 == 0
    score = np.where(audio[:, None], [0.0, 0.5, 1.0, 1.0], [1.0, 1.0, 0.9, 0.9]).astype(np.float32)
    tensors: dict[str, np.ndarray] = {
        "question": np.stack([np.where(audio, 2.0, -2.0), rng.normal(size=n)], axis=1).astype(np.float32),
        "score": score,
        "latency_ms": np.tile(np.array([10, 20, 21, 22], dtype=np.float32), (n, 1)),
        "retention_set": np.where(audio, -1, 0).astype(np.int16),
        "group": np.arange(n),
        "split": (np.arange(n) >= 400).astype(np.uint8),
    }
    writer = TableWriter(folder, header)
    writer.write_part(tensors, [{"id": str(i)} for i in range(n)], n)
    writer.finish()
    return OutcomeTable.open(folder)


def test_cap_and_share_move_over_the_rollouts_and_end_with_the_tables_own(budgeted: OutcomeTable) -> None:
    env, seen = AudioGateVecEnv(budgeted, num_envs=100, seed=0, flat=True), _Seen()
    curriculum = Curriculum(BUDGETED.curriculum, 0.6)
    curriculum.set_on(env, 0)
    model = PPOLagrangian("MlpPolicy", env, BUDGETED.ppo, BUDGETED.lagrangian, seed=0)
    model.learn(1_200, [curriculum, seen])
    caps, shares, shown = zip(*seen.seen, strict=True)
    assert caps == (2, 2, 3, 4, 5, 5, 6, 7, None, None, None, None)
    asked = [0.9 - 0.05 * i for i in range(8)]
    assert shares[:8] == pytest.approx(asked)
    assert shares[8:] == (None,) * 4
    # A batch is drawn while the one before is answered: it has the share of then.
    assert shown[:9] == pytest.approx([asked[0], *asked], abs=0.011)
    assert np.mean(shown[9:]) == pytest.approx(0.5, abs=0.1)


def test_the_first_questions_of_a_run_have_the_first_share(
    budgeted: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[float] = []
    step = AudioGateVecEnv.step_wait

    def look(env: AudioGateVecEnv) -> Any:
        shown.append(float(np.mean(env.batches.split.retention_set[env.rows] < 0)))
        return step(env)

    monkeypatch.setattr(AudioGateVecEnv, "step_wait", look)
    train_agent(budgeted.split("train"), budgeted.split("validation"), BUDGETED, 0)
    assert shown[:3] == pytest.approx([0.9, 0.9, 0.85], abs=0.011)


def test_a_run_with_cap_and_share_is_resumed_to_the_bit(budgeted: OutcomeTable, tmp_path: Path) -> None:
    def train(**options: Any) -> Any:
        return train_agent(budgeted.split("train"), budgeted.split("validation"), BUDGETED, 0, **options)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 500:
            raise KeyboardInterrupt

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(checkpoints=tmp_path, progress=stop)
    np.random.seed(1)
    resumed = train(checkpoints=tmp_path, resume=True)
    assert resumed.history == whole.history
    for ours, theirs in zip(resumed.policy.layers, whole.policy.layers, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_final_share_is_kept_when_the_curriculum_is_over(budgeted: OutcomeTable) -> None:
    environment = AudioGateVecEnv(budgeted.split("train"), num_envs=100, seed=0)
    figures = Curriculum(CurriculumConfig(steps=10, audio_share_final=0.2), 0.6).set_on(environment, 5_000)
    assert figures["audio_share"] == environment.audio_share == 0.2
    environment.reset()
    assert np.mean(environment.batches.split.retention_set[environment.rows] < 0) == pytest.approx(0.2)


def test_a_share_for_a_table_of_one_kind_is_refused(budgeted: OutcomeTable) -> None:
    rows = budgeted.split("train")
    rows.retention_set[:] = -1
    with pytest.raises(ConfigError, match=r"has no retention questions; leave curriculum\.audio_share_initial"):
        Curriculum(BUDGETED.curriculum, 0.6).set_on(AudioGateVecEnv(rows, num_envs=100, seed=0), 0)
