from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.config import PPOConfig
from agents.gate_policy import GatePolicy, load_policy, save_policy
from agents.ppo_lagrangian import PPOLagrangian
from envs.outcomes import OutcomeTable
from envs.sb3 import AudioGateVecEnv


@pytest.fixture
def trained(table: OutcomeTable) -> tuple[GatePolicy, PPOLagrangian, AudioGateVecEnv]:
    env = AudioGateVecEnv(table, 100, seed=0, flat=True)
    model = PPOLagrangian("MlpPolicy", env, PPOConfig(num_envs=100, batch_size=100, hidden=(8, 5)), seed=0).learn(300)
    return GatePolicy.from_network(model.policy, env.batches.normaliser, table.actions), model, env


def test_raw_features_give_the_probabilities_of_the_trained_network(trained: Any, table: OutcomeTable) -> None:
    policy, model, env = trained
    rows = np.arange(50)
    with torch.no_grad():
        expected = model.policy.probabilities(torch.from_numpy(env.observe(rows))).numpy()
    features = table.split("train").observation(rows)
    np.testing.assert_allclose(policy.probabilities(features), expected, atol=1e-6)
    np.testing.assert_allclose(policy.use_probability(features), expected[:, 1], atol=1e-6)
    assert np.array_equal(policy.decide(features), expected.argmax(axis=1))


def test_a_saved_policy_predicts_the_same_to_the_bit(trained: Any, table: OutcomeTable, tmp_path: Path) -> None:
    policy = trained[0]
    save_policy(tmp_path, policy, {"seed": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]
    features = table.split("test").observation(slice(None))
    assert np.array_equal(load_policy(tmp_path).probabilities(features), policy.probabilities(features))
    description = json.loads((tmp_path / "policy.json").read_text())
    assert description["hidden"] == [8, 5]
    assert description["provenance"] == {"seed": 3}


def test_features_of_another_table_are_refused(trained: Any) -> None:
    with pytest.raises(ValueError, match=r"The policy needs question with 4 columns, got .* it was trained on"):
        trained[0].probabilities({"question": np.zeros((2, 7), np.float32)})


@pytest.mark.parametrize("damage", ["missing", "checksum", "json", "version", "layers"])
def test_a_damaged_policy_is_refused_in_one_line(trained: Any, tmp_path: Path, damage: str) -> None:
    save_policy(tmp_path, trained[0])
    tensors, path = tmp_path / "policy.safetensors", tmp_path / "policy.json"
    description = json.loads(path.read_text())
    if damage == "missing":
        tensors.unlink()
    elif damage == "checksum":
        tensors.write_bytes(tensors.read_bytes() + b" ")
    elif damage == "json":
        path.write_text("{")
    elif damage == "version":
        path.write_text(json.dumps(description | {"version": 99}))
    else:
        path.write_text(json.dumps(description | {"hidden": [8, 5, 5, 5]}))
    with pytest.raises(ValueError, match=r"missing|wrong checksum|damaged|version 99") as error:
        load_policy(tmp_path)
    assert "\n" not in str(error.value)
