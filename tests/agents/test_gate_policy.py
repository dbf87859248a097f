from __future__ import annotations

import json
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.config import PPOConfig
from agents.gate_policy import GatePolicy, load_policy, provenance_of, save_policy
from agents.ppo_lagrangian import PPOLagrangian
from envs.normaliser import ObservationNormaliser
from envs.outcomes import OutcomeTable
from envs.sb3 import AudioGateVecEnv
from supervised.errors import CheckpointError


@pytest.fixture(params=["tanh", "relu"])
def trained(request: pytest.FixtureRequest, table: OutcomeTable) -> tuple[GatePolicy, PPOLagrangian, AudioGateVecEnv]:
    env = AudioGateVecEnv(table, 100, seed=0, flat=True)
    config = PPOConfig(num_envs=100, batch_size=100, hidden=(8, 5), activation=request.param)
    model = PPOLagrangian("MlpPolicy", env, config, seed=0).learn(300)
    layers = model.policy.policy_layers()
    policy = GatePolicy(env.batches.normaliser, layers, table.actions, request.param)
    return policy, model, env


def random_policy(
    widths: dict[str, int], hidden: tuple[int, ...], actions: int = 2, activation: str = "tanh"
) -> GatePolicy:
    """A policy of random weights over features of these widths."""
    rng = np.random.default_rng(0)
    normaliser = ObservationNormaliser(
        {name: rng.normal(size=width).astype(np.float32) for name, width in widths.items()},
        {name: (0.1 + rng.random(widths[name])).astype(np.float32) for name in reversed(widths)},
    )
    sizes = [sum(widths.values()), *hidden, actions]
    layers = [(rng.normal(size=(out, into)) / np.sqrt(into), rng.normal(size=out)) for into, out in pairwise(sizes)]
    return GatePolicy(normaliser, layers, tuple(f"action-{i}" for i in range(actions)), activation)


def test_raw_features_give_the_probabilities_of_the_trained_network(trained: Any, table: OutcomeTable) -> None:
    policy, model, env = trained
    rows = np.arange(50)
    with torch.no_grad():
        expected = model.policy.probabilities(torch.from_numpy(env.observe(rows))).numpy()
    features = table.split("train").observation(rows)
    np.testing.assert_allclose(policy.probabilities(features), expected, atol=1e-6)
    np.testing.assert_allclose(policy.use_probability(features), expected[:, 1], atol=1e-6)
    assert np.array_equal(policy.decide(features), expected.argmax(axis=1))


def test_a_network_computed_by_hand() -> None:
    normaliser = ObservationNormaliser({"question": np.array([1.0, 0.0])}, {"question": np.array([2.0, 0.5])})
    layers = [(np.array([[1.0, -1.0]]), np.array([0.5])), (np.array([[0.0], [3.0]]), np.array([1.0, 0.0]))]
    policy = GatePolicy(normaliser, layers, ("skip", "use"))
    # (5 - 1) / 2 = 2 and (0.5 - 0) / 0.5 = 1, so tanh(2 - 1 + 0.5) = 0.905148 and the logits are 1 and 2.715445.
    logits = policy.logits({"question": np.array([[5.0, 0.5]])})
    np.testing.assert_allclose(logits, [[1.0, 2.715445]], rtol=1e-6)
    # exp(1.715445) = 5.559148, so USE has 5.559148 / 6.559148 = 0.847541
    np.testing.assert_allclose(policy.use_probability(np.array([5.0, 0.5])), 0.847541, rtol=1e-5)
    assert policy.decide(np.array([5.0, 0.5])) == 1
    # (-99 - 1) / 2 = -50 is clipped to -10, (-100 - 0) / 0.5 = -200 as well: tanh(-10 + 10 + 0.5) = 0.462117
    np.testing.assert_allclose(policy.logits(np.array([-99.0, -100.0])), [1.0, 1.386352], rtol=1e-6)


@given(arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_normalisation_is_that_of_the_environment_to_the_bit(rows: np.ndarray) -> None:
    policy = random_policy({"question": 3, "confidence": 2}, ())  # no hidden layer: the logits are linear in it
    features = {"question": rows[:, :3], "confidence": rows[:, 3:]}
    normalised = np.concatenate(list(policy.normaliser(features).values()), axis=1)
    weight, bias = policy.layers[0]
    assert np.array_equal(policy.logits(features), normalised.dot(np.ascontiguousarray(weight.T)) + bias)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@given(rows=arrays(np.float32, (7, 6), elements=st.floats(-50, 50, width=32)))
def test_torch_agrees(activation: str, rows: np.ndarray) -> None:
    policy = random_policy({"image": 2, "audio_preview": 4}, (8, 5), 3, activation)
    features = {"image": rows[:, :2], "audio_preview": rows[:, 2:]}
    hidden = torch.from_numpy(np.concatenate(list(policy.normaliser(features).values()), axis=1))
    for weight, bias in policy.layers[:-1]:
        hidden = torch.nn.functional.linear(hidden, torch.from_numpy(weight), torch.from_numpy(bias))
        hidden = torch.tanh(hidden) if activation == "tanh" else torch.relu(hidden)
    weight, bias = policy.layers[-1]
    logits = torch.nn.functional.linear(hidden, torch.from_numpy(weight), torch.from_numpy(bias))
    np.testing.assert_allclose(policy.logits(features), logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(policy.probabilities(features), logits.softmax(dim=1).numpy(), atol=1e-6)


@given(arrays(np.float32, (6,), elements=st.floats(-50, 50, width=32)))
def test_a_single_question_is_a_row_of_many(row: np.ndarray) -> None:
    policy = random_policy({"image": 2, "audio_preview": 4}, (8,))
    features = {"image": row[:2], "audio_preview": row[2:]}
    for ask in (policy.logits, policy.probabilities, policy.use_probability):
        single = ask(features)
        np.testing.assert_allclose(single, ask(row[None])[0], atol=1e-5)
        assert np.array_equal(single, ask(row))
    assert policy.decide(features).shape == ()
    assert policy.decide(features) == policy.logits(row).argmax()


def test_many_rows_are_decided_like_few() -> None:
    policy = random_policy({"question": 6}, (8,))
    rows = np.random.default_rng(1).normal(size=(2500, 6)).astype(np.float32)
    few = np.concatenate([policy.probabilities(rows[first : first + 100]) for first in range(0, 2500, 100)])
    np.testing.assert_allclose(policy.probabilities(rows), few, atol=1e-6)
    assert policy.decide(rows).shape == (2500,)
    assert policy.decide(rows[:0]).shape == (0,)


def test_what_comes_in_is_left_as_it_was() -> None:
    policy = random_policy({"question": 6}, (8,))
    row = np.random.default_rng(1).normal(size=6).astype(np.float32)
    before = row.copy()
    first = policy.probabilities(row)
    kept = first.copy()
    policy.probabilities(row + 1)
    assert np.array_equal(row, before)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_question_with_a_nan_is_skipped_and_an_infinite_one_is_clipped(activation: str) -> None:
    policy = random_policy({"question": 3}, (8,), activation=activation)
    policy.layers[-1][1][:] = [0.0, 1000.0]
    policy = GatePolicy(policy.normaliser, policy.layers, policy.actions, activation)
    rows = np.array([[np.nan, 0, 0], [np.inf, -np.inf, 3e38], [0, 0, 0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert policy.decide(rows).tolist() == [0, 1, 1]
        assert not policy.use_probability(rows[0]) >= 0.0  # below every threshold
        assert np.array_equal(policy.logits(rows[1]), policy.logits(np.array([1e4, -1e4, 1e4], np.float32)))


def test_a_tie_goes_to_the_cheaper_action() -> None:
    policy = random_policy({"question": 3}, ())
    equal = [(np.zeros((3, 3)), np.zeros(3))]
    assert GatePolicy(policy.normaliser, equal, ("skip", "use_4", "use_8")).decide(np.ones(3)) == 0


def test_a_saved_policy_predicts_the_same_to_the_bit(trained: Any, table: OutcomeTable, tmp_path: Path) -> None:
    policy = trained[0]
    save_policy(tmp_path, policy, {"seed": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]
    features = table.split("test").observation(slice(None))
    assert np.array_equal(load_policy(tmp_path).probabilities(features), policy.probabilities(features))
    description = json.loads((tmp_path / "policy.json").read_text())
    assert description["hidden"] == [8, 5]
    assert description["activation"] == policy.activation
    assert description["provenance"] == {"seed": 3}


def test_features_of_another_table_are_refused(trained: Any) -> None:
    with pytest.raises(ValueError, match=r"The policy needs question with 4 columns, got .* it was trained on"):
        trained[0].probabilities({"question": np.zeros((2, 7), np.float32)})


@pytest.mark.parametrize("shape", [(5,), (2, 7), (1, 2, 6), ()])
def test_rows_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    policy = random_policy({"image": 2, "audio_preview": 4}, (8,))
    with pytest.raises(
        ValueError, match=r"needs 6 features a question, got .* order: {'image': 2, 'audio_preview': 4}"
    ):
        policy.decide(np.zeros(shape, np.float32))


def test_features_of_different_questions_are_refused() -> None:
    policy = random_policy({"image": 2, "audio_preview": 4}, (8,))
    with pytest.raises(ValueError, match=r"as many rows of every feature, got .*give the same questions"):
        policy.decide({"image": np.zeros((2, 2)), "audio_preview": np.zeros((3, 4))})


@pytest.mark.parametrize("given", [[0.0, 0.0], "raw", None])
def test_what_is_neither_array_nor_mapping_is_refused(given: Any) -> None:
    normaliser = ObservationNormaliser({"image": np.zeros(2)}, {"image": np.ones(2)})
    policy = GatePolicy(normaliser, [(np.zeros((2, 2)), np.zeros(2))], ("skip", "use"))
    with pytest.raises(
        ValueError, match=r"takes an array, or a mapping with one per feature, got .*; give np\.asarray"
    ):
        policy.decide(given)


@pytest.mark.parametrize(
    "damage", ["missing", "checksum", "json", "version", "layers", "activation", "normaliser", "provenance"]
)
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
    elif damage == "activation":
        path.write_text(json.dumps(description | {"activation": "gelu"}))
    elif damage in ("normaliser", "provenance"):
        path.write_text(json.dumps(description | {damage: None}))
    else:
        path.write_text(json.dumps(description | {"hidden": [8, 5, 5, 5]}))
    with pytest.raises(ValueError, match=r"missing|wrong checksum|damaged|version 99|'gelu', allowed are") as error:
        load_policy(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_kept_with_a_policy_comes_back_or_is_asked_for_in_one_line(tmp_path: Path) -> None:
    save_policy(tmp_path, random_policy({"question": 6}, (8,)), {"seed": 3})
    assert provenance_of(tmp_path) == {"seed": 3}
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"format": "safe-rl-policy"}))
    with pytest.raises(CheckpointError, match=r"policy\.json does not tell where its policy comes from \(KeyError\)"):
        provenance_of(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"FileNotFoundError\); restore it or train again"):
        provenance_of(tmp_path)


def test_a_saved_policy_decides_without_torch(tmp_path: Path) -> None:
    save_policy(tmp_path, random_policy({"question": 6}, (8,)))
    code = (
        "import sys, numpy as np; from agents.gate_policy import load_policy\n"
        f"policy = load_policy({str(tmp_path)!r}); print(policy.decide(np.zeros(policy.width, np.float32)).shape)\n"
        "print(*(name for name in ('torch', 'stable_baselines3', 'scipy', 'transformers') if name in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "()\n\n"
