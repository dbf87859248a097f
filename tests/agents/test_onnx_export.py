"""The exported gate says in onnxruntime what the policy says in NumPy."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.gate_policy import GatePolicy
from agents.onnx_export import GATE, OnnxGate, export_onnx, onnx_model
from envs.normaliser import ObservationNormaliser
from supervised.errors import ConfigError

WIDTHS = {"question": 3, "confidence": 2}


def random_policy(hidden: tuple[int, ...], actions: int = 2, activation: str = "tanh") -> GatePolicy:
    rng = np.random.default_rng(0)
    normaliser = ObservationNormaliser(
        {name: rng.normal(size=width) for name, width in WIDTHS.items()},
        {name: 0.1 + rng.random(WIDTHS[name]) for name in reversed(WIDTHS)},  # the mean's order is the one that counts
    )
    sizes = [5, *hidden, actions]
    layers = [(rng.normal(size=(out, into)), rng.normal(size=out)) for into, out in pairwise(sizes)]
    return GatePolicy(normaliser, layers, ("skip", *(f"use_{i}" for i in range(1, actions))), activation)


@pytest.fixture(scope="module", params=[((8,), 2, "tanh"), ((8, 5), 4, "relu"), ((), 2, "tanh")])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GatePolicy, OnnxGate]:
    policy = random_policy(*request.param)
    path = tmp_path_factory.mktemp("export") / GATE
    export_onnx(path, policy)
    return policy, OnnxGate(path)


@settings(max_examples=50)
@given(
    rows=st.integers(1, 6).flatmap(
        lambda n: arrays(np.float32, (n, 5), elements=st.floats(-(2.0**60), 2.0**60, width=32))
    )
)
def test_probabilities_and_decisions_are_those_of_numpy(pair: tuple[GatePolicy, OnnxGate], rows: np.ndarray) -> None:
    policy, gate = pair
    features = {"question": rows[:, :3], "confidence": rows[:, 3:]}
    expected, found = policy.probabilities(features), gate.probabilities(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-5
    assert np.array_equal(found.argmax(axis=1)[clear], policy.decide(features)[clear])


def test_a_question_with_a_nan_is_skipped_there_too(pair: tuple[GatePolicy, OnnxGate]) -> None:
    rows = np.array([[np.nan, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    found = pair[1].probabilities({"question": rows[:, :3], "confidence": rows[:, 3:]})
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_the_model_is_of_an_old_operator_set_and_names_its_actions() -> None:
    model = onnx_model(random_policy((8,)))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert {prop.key: json.loads(prop.value) for prop in model.metadata_props} == {"actions": ["skip", "use_1"]}
    shapes = {
        entry.name: [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {"question": ["n", 3], "confidence": ["n", 2], "probabilities": ["n", 2]}
    onnx.checker.check_model(model, full_check=True)


def test_an_export_is_the_same_file_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_onnx(tmp_path / name, random_policy((8,)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_told_with_its_remedy(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"and {package} is not installed; run `pip install .*--distill\.onnx false"):
        export_onnx(tmp_path / GATE, random_policy((8,)))
    assert not (tmp_path / GATE).exists()
