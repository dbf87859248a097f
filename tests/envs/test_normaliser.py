"""Normalisation: fitted on a split, finite, clipped, and restored from tensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from envs import normaliser as module
from envs.normaliser import ObservationNormaliser
from envs.outcomes import OutcomeTable
from supervised.errors import CheckpointError


def test_train_rows_have_mean_zero_and_deviation_one(synthetic_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 37)  # several pieces
    train = OutcomeTable.open(synthetic_table).split("train")
    values = ObservationNormaliser.fit(train)(train.observation(slice(None)))
    for name in ("question", "image", "audio_preview", "confidence"):
        np.testing.assert_allclose(values[name].mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(values[name].std(axis=0), 1, atol=1e-3)
        assert values[name].dtype == np.float32


def test_a_constant_dimension_becomes_zero_and_far_values_are_clipped() -> None:
    normalise = ObservationNormaliser({"image": np.array([5.0, 0.0])}, {"image": np.array([1.0, 0.1])})
    np.testing.assert_array_equal(
        normalise({"image": np.array([[5.0, 1e9], [5.0, -1e9]])})["image"], [[0, 10], [0, -10]]
    )


def test_what_comes_out_does_not_alias_what_went_in() -> None:
    normalise = ObservationNormaliser({"image": np.zeros(2)}, {"image": np.ones(2)})
    given = np.zeros((1, 2), dtype=np.float32)
    normalise({"image": given})["image"][:] = 3
    assert not given.any()


def test_a_normaliser_survives_tensors_and_json(synthetic_table: Path) -> None:
    train = OutcomeTable.open(synthetic_table).split("train")
    before = ObservationNormaliser.fit(train)
    after = ObservationNormaliser.from_tensors(before.tensors(), json.loads(json.dumps(before.describe())))
    for name, values in before(train.observation([0, 7])).items():
        np.testing.assert_array_equal(after(train.observation([0, 7]))[name], values)


def test_a_damaged_normaliser_is_refused() -> None:
    normalise = ObservationNormaliser({"image": np.zeros(2)}, {"image": np.ones(2)})
    tensors = normalise.tensors()
    with pytest.raises(CheckpointError, match=r"std\.image has shape None, allowed is \[2\]"):
        ObservationNormaliser.from_tensors({"mean.image": tensors["mean.image"]}, normalise.describe())
    with pytest.raises(CheckpointError, match=r"description .* is damaged"):
        ObservationNormaliser.from_tensors(tensors, {"features": {"image": 2}})
    with pytest.raises(CheckpointError, match="positive deviations"):
        ObservationNormaliser({"image": np.zeros(2)}, {"image": np.zeros(2)})


def test_of_a_large_split_evenly_spread_blocks_are_measured(
    synthetic_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 32)
    monkeypatch.setattr(module, "_BLOCK", 8)
    train = OutcomeTable.open(synthetic_table).split("train")
    last = len(train) - 8
    measured = np.concatenate([np.arange(8) + first for first in (0, last // 3, 2 * last // 3, last)])
    found = ObservationNormaliser.fit(train)
    values = train.features["question"][measured]
    np.testing.assert_allclose(found.mean["question"], values.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.std["question"], values.std(axis=0), rtol=1e-4)


def test_a_split_within_the_bound_is_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 32)
    monkeypatch.setattr(module, "_BLOCK", 8)
    np.testing.assert_array_equal(module._measured(32), np.arange(32))
    assert len(np.unique(module._measured(33))) <= 32
