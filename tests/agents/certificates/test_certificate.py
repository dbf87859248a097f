"""The file that carries the promise, and the gate that reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.certificates.certificate import (
    FILE,
    NEVER,
    Certificate,
    CertifiedGate,
    SetCertificate,
    gate_actions,
    load_certificate,
    policy_sha256,
    save_certificate,
)
from agents.gate_policy import GatePolicy, load_policy, save_policy
from envs.normaliser import ObservationNormaliser
from supervised.errors import CheckpointError


def policy_of(sign: float = 1.0, actions: tuple[str, ...] = ("skip", "use")) -> GatePolicy:
    """P(use) = 1 / (1 + exp(-x)) of its only feature x; further actions get half of the logit."""
    normaliser = ObservationNormaliser({"question": np.zeros(1)}, {"question": np.ones(1)})
    weight = np.array([[0.0], [sign], [sign / 2]][: len(actions)])
    return GatePolicy(normaliser, [(weight, np.zeros(len(actions)))], actions)


def certificate_of(directory: Path, **changes: Any) -> Certificate:
    found = SetCertificate("vl", 0.003, 1200, 100, 1000, 0, 0.0, 0.00299, 998, 0.002, 8496)
    values: dict[str, Any] = {
        "method": "harm",
        "delta": 0.05,
        "threshold": 0.7310,
        "sets": (found, replace(found, name="vqa", wanted_needed=None)),
        "actions": ("skip", "use"),
        "usage": 0.25,
        "utility": 0.8,
        "utility_never": 0.7,
        "wanted": 0.5,
        "alpha": 0.6,
        "gamma": 0.1,
        "thresholds_passed": 12,
        "thresholds_tried": 100,
        "split": "calibration",
        "rows": 2000,
        "seed": 0,
        "drawn_sha256": "d",
        "table_sha256": "t",
        "policy_sha256": policy_sha256(directory),
        "gate_zero": {"bit_exact": True, "samples": 64, "base_sha256": "b"},
    }
    return Certificate(**values | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(tmp_path, policy_of())
    save_certificate(tmp_path, certificate_of(tmp_path))
    return tmp_path


@pytest.mark.parametrize("threshold", [0.0, 0.1 + 0.2, 1.0, NEVER])
def test_a_certificate_survives_its_file(folder: Path, threshold: float) -> None:
    certificate = certificate_of(folder, threshold=threshold, wanted=NEVER)
    save_certificate(folder, certificate)
    assert load_certificate(folder) == certificate
    value = json.loads((folder / FILE).read_text())
    assert value["threshold"] == (None if threshold == NEVER else threshold)
    assert (value["format"], value["version"], value["confidence"]) == ("safe-rl-certificate", 1, 0.95)


def test_a_certificate_beside_another_policy_is_refused(folder: Path) -> None:
    save_policy(folder, policy_of(sign=2.0))
    with pytest.raises(
        CheckpointError, match=r"certificate of another policy \(policy.json, policy.safetensors changed"
    ):
        load_certificate(folder)
    save_policy(folder, policy_of(), {"seed": 1})  # the same weights, but another description
    with pytest.raises(CheckpointError, match=r"another policy \(policy.json changed since\); certify this one"):
        CertifiedGate.load(folder)
    save_policy(folder, policy_of())
    assert load_certificate(folder).threshold == 0.7310


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is other version 1, this program reads safe-rl-certificate version 1"),
        ({"version": 2}, "is safe-rl-certificate version 2"),
        ({"threshold": "0.5"}, "is damaged .*between 0 and 1, or null for never, got '0.5'"),
        ({"threshold": 1.5}, "is damaged .*got 1.5"),
        ({"threshold": True}, "is damaged .*got True"),
        ({"delta": 0}, "is damaged .*sets, delta or method"),
        ({"sets": []}, "is damaged .*sets, delta or method"),
        ({"sets": [{"name": "vl"}]}, "is damaged .*TypeError"),
        ({"method": "hope"}, "is damaged .*sets, delta or method"),
        ({"policy_sha256": None}, "is damaged .*TypeError"),
    ],
)
def test_a_certificate_that_says_something_impossible_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    value = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(value | change))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_certificate(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "safe-rl-certificate", "version": 1}', "[" * 9999])
def test_a_damaged_file_is_one_line(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"certificate.json is damaged .*certify the policy again") as caught:
        load_certificate(folder)
    assert "\n" not in str(caught.value)


def test_a_policy_without_a_certificate_and_the_reverse_are_refused(folder: Path) -> None:
    (folder / "policy.json").unlink()
    with pytest.raises(CheckpointError, match=r"policy.json is missing; run `python -m safe_rl.certify`"):
        load_certificate(folder)
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"certificate.json is missing"):
        load_certificate(folder)


def test_the_gate_uses_audio_from_the_threshold_on(folder: Path) -> None:
    gate = CertifiedGate.load(folder)
    x = np.array([[-3.0], [0.5], [0.999], [1.0], [3.0]])  # P(use | 1) = 0.73106
    assert gate.decide({"question": x}).tolist() == [0, 0, 0, 1, 1]
    assert gate.policy.decide({"question": x}).tolist() == [0, 1, 1, 1, 1]
    assert gate.decide({"question": x[3]}) == 1  # a single question
    assert gate.decide({"question": np.array([[np.nan]])}).tolist() == [0]


def test_a_tie_with_the_threshold_uses_audio() -> None:
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32)
    assert gate_actions(probabilities, 0.75).tolist() == [1, 0, 0]
    assert gate_actions(probabilities, 0.0).tolist() == [1, 1, 1]
    assert gate_actions(probabilities, NEVER).tolist() == [0, 0, 0]


def test_of_several_paying_actions_the_most_probable_is_taken() -> None:
    probabilities = np.array([[0.4, 0.35, 0.25], [0.4, 0.25, 0.35], [0.4, 0.3, 0.3], [0.7, 0.1, 0.2]])
    assert gate_actions(probabilities, 0.6).tolist() == [1, 2, 1, 0]  # skip is the most probable action in all


@given(arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(2, 4)), elements=st.floats(0.015625, 1, width=32)))
def test_a_lower_threshold_keeps_every_use_of_a_higher_one(weights: np.ndarray) -> None:
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    before = gate_actions(probabilities, NEVER)
    for threshold in (1.0, 0.7, 0.5, 0.2, 0.0):
        after = gate_actions(probabilities, threshold)
        assert np.array_equal(after[before > 0], before[before > 0])
        before = after
    assert np.all(before > 0)


def test_a_certificate_about_other_actions_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="decides between skip, use_4, use_8, its certificate is about skip, use"):
        CertifiedGate(policy_of(actions=("skip", "use_4", "use_8")), load_certificate(folder))


def test_the_gate_runs_without_torch_and_scipy(folder: Path) -> None:
    code = (
        "import sys; from agents.certificates.certificate import CertifiedGate; import numpy as np; "
        f"print(CertifiedGate.load({str(folder)!r}).decide({{'question': np.array([[2.0]])}})); "
        "print({'torch', 'scipy'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["[1]", "set()"]


def test_the_threshold_acts_on_the_probability_that_the_policy_tells(folder: Path) -> None:
    policy = load_policy(folder)
    features = {"question": np.random.default_rng(0).normal(size=(500, 1))}
    chances = policy.use_probability(features)
    for threshold in np.sort(chances)[[10, 200, 499]].astype(np.float64):
        expected = chances.astype(np.float64) >= threshold
        assert np.array_equal(gate_actions(policy.probabilities(features), threshold) > 0, expected)
