"""Tables whose actions are token budgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_tables import CONFIG, PROFILED

from envs.audio_gate import AudioGateEnv
from envs.build import build_table
from envs.config import OutcomesConfig
from envs.live import LiveSource
from envs.measure import measure
from envs.normaliser import ObservationNormaliser
from envs.outcomes import OutcomeTable
from supervised.answers import score
from supervised.data.sample import Sample
from supervised.errors import ConfigError, TableError

BUDGETED = replace(CONFIG, budgets=(2, 4, 8))


@pytest.fixture(scope="session")
def budgeted(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, splits: dict[str, list[Sample]]
) -> OutcomeTable:
    profile = replace(PROFILED, budget_ms={"2": 0.5, "4": 1.0, "8": 1.5})
    return build_table(tiny_model, splits, BUDGETED, tmp_path_factory.mktemp("budgets"), profile=profile)


def test_a_table_with_budgets_has_an_action_for_each(budgeted: OutcomeTable, built: OutcomeTable) -> None:
    assert budgeted.actions == ("skip", "use_2", "use_4", "use_8")
    assert budgeted.action_tokens == (0, 2, 4, 8)
    assert budgeted.provenance["config"]["budgets"] == [2, 4, 8]
    assert "budgets" not in built.provenance["config"]  # a table without is what it was before there were any
    flops = budgeted.provenance["flops"]
    assert flops["use_8"] == built.provenance["flops"]["use"]
    assert flops["skip"] < min(flops["use_2"], flops["use_4"])  # more than that lies with the lengths of their answers
    for split in ("train", "test"):
        ours, theirs = budgeted.split(split), built.split(split)
        np.testing.assert_array_equal(ours.score[:, [0, 3]], theirs.score)
        np.testing.assert_array_equal(ours.latency_ms[:, [0, 3]], theirs.latency_ms)
        for name, column in theirs.features.items():
            np.testing.assert_array_equal(ours.features[name][:], column[:])
    assert budgeted.provenance["gate_zero_bit_exact"] is True


def test_every_budget_is_answered_with_its_own_tokens(
    budgeted: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]
) -> None:
    train = budgeted.split("train")
    differing = 0
    for row, sample in enumerate(splits["train"]):
        inputs, audio = tiny_model.inputs([sample]), tiny_model.encode_audio([sample.audio])
        record = train.record(row)
        for action, budget in enumerate((2, 4, 8), start=1):
            answer = tiny_model.decode(tiny_model.generate(inputs, audio, budget=budget), inputs)[0]
            assert record["predictions"][action] == answer
            assert train.score[row, action] == np.float32(score(answer, sample.answers))
        differing += len(set(record["predictions"][1:])) > 1
    assert differing > 0  # budgets change answers here, so that the columns are really four


def test_a_budget_pays_its_own_fusion_and_no_other_difference_but_its_answer(budgeted: OutcomeTable) -> None:
    train = budgeted.split("train")
    rows = [row for row in range(18) if row % 6 != 4]  # with a clip
    # Without the fusion's own 0.5, 1 and 1.5 ms the rest is answer tokens, 4 ms each.
    bare = train.latency_ms[rows, 1:].astype(np.float64) - np.array([0.5, 1.0, 1.5])
    steps = (bare - bare[:, :1]) / 4
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    assert np.all(train.latency_ms[[4, 10, 16], 1:] == train.latency_ms[[4, 10, 16], :1])


def test_live_and_table_agree_on_every_budget(
    budgeted: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveSource.like(budgeted, tiny_model, splits["test"])
    normaliser = ObservationNormaliser.fit(budgeted.split("train"))
    on_table = AudioGateEnv(table=budgeted, split="test", normaliser=normaliser, token_weight=0.5)
    on_model = AudioGateEnv(source=live, normaliser=normaliser, token_weight=0.5)
    assert live.problem.action_tokens == (0, 2, 4, 8)
    assert on_model.action_space == on_table.action_space
    encoded: list[int] = []
    original = tiny_model.encode_audio
    monkeypatch.setattr(tiny_model, "encode_audio", lambda clips: encoded.append(len(clips)) or original(clips))
    for index in range(len(live)):
        for action in range(4):
            on_table.reset(options={"index": index})
            on_model.reset(options={"index": index})
            _, reward, _, _, info = on_model.step(action)
            _, expected, _, _, expected_info = on_table.step(action)
            assert reward == expected
            np.testing.assert_array_equal(info.pop("cost"), expected_info.pop("cost"))
            assert info == expected_info
    assert len(encoded) == len(live)  # a clip is heard once for all budgets


def test_clips_are_projected_once_for_all_budgets(
    tiny_model: Any, many_samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projected: list[int] = []
    forward = tiny_model.adapter.projector.forward
    monkeypatch.setattr(
        tiny_model.adapter.projector,
        "forward",
        lambda tokens, mask, budget=None: projected.append(len(tokens)) or forward(tokens, mask, budget),
    )
    build_table(tiny_model, {"train": many_samples[:6]}, BUDGETED, tmp_path, profile=PROFILED)
    counting = 3 * 5  # operations are counted per budget, on the five questions that have a clip
    assert sum(projected) - counting == 6


def test_another_choice_of_budgets_is_another_table(
    budgeted: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]
) -> None:
    with pytest.raises(
        TableError, match=r"config\.budgets is \[2, 4, 8\] in the table and \[2, 4\] in the present run"
    ):
        build_table(tiny_model, splits, replace(CONFIG, budgets=(2, 4)), budgeted.directory)
    with pytest.raises(TableError, match=r"config\.budgets is only in the table"):
        build_table(tiny_model, splits, CONFIG, budgeted.directory)
    again = build_table(tiny_model, splits, BUDGETED, budgeted.directory)
    assert again.fingerprint == budgeted.fingerprint


def test_a_budget_above_the_adapters_tokens_is_refused(
    tiny_model: Any, splits: dict[str, list[Sample]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"outcomes\.budgets has a budget of 16 audio tokens, but .* is 8; use"):
        build_table(tiny_model, splits, replace(CONFIG, budgets=(8, 16)), tmp_path)
    with pytest.raises(ConfigError, match=r"outcomes\.budgets must be rising numbers >= 1, got \[8, 4\]"):
        OutcomesConfig(budgets=(8, 4))


def test_fusion_is_measured_for_every_budget_and_never_falls(tiny_model: Any, many_samples: list[Sample]) -> None:
    profile = measure(tiny_model, many_samples[:6], replace(BUDGETED, latency_repeats=5))
    assert list(profile.budget_ms) == ["2", "4", "8"]
    assert 0 <= profile.budget_ms["2"] <= profile.budget_ms["4"] <= profile.budget_ms["8"] == profile.fusion_ms
    assert measure(tiny_model, many_samples[:6], CONFIG).budget_ms == {}
