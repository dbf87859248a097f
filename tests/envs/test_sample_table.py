"""The small table that ships with the package: there, small, and enough for `gymnasium.make` without arguments."""

from __future__ import annotations

import gymnasium
import numpy as np

from envs.outcomes import OutcomeTable
from envs.source import SAMPLE_TABLE

ID = "safe_rl/AudioGate-v0"


def test_the_table_that_ships_is_whole_and_at_most_two_megabytes() -> None:
    table = OutcomeTable.open(SAMPLE_TABLE)
    assert all(table.splits[name] > 0 for name in ("train", "validation", "test"))
    assert table.provenance["gate_zero_bit_exact"] is True
    assert sum(path.stat().st_size for path in SAMPLE_TABLE.iterdir()) <= 2 * 2**20


def test_make_and_make_vec_work_without_arguments() -> None:
    scalar = gymnasium.make(ID)
    observation, _ = scalar.reset(seed=0)
    assert observation in scalar.observation_space
    vector = gymnasium.make_vec(ID, num_envs=4)
    vector.reset(seed=0)
    _, rewards, terminated, _, _ = vector.step(np.zeros(4, dtype=np.int64))
    assert np.isfinite(rewards).all()
    assert terminated.all()
