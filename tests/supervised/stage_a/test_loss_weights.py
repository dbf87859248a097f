from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.stage_a.config import AudioCurriculumConfig, LossConfig
from supervised.stage_a.loss_weights import MOST, LossWeights, stage_weights

BASE = {"retention_score": 0.8, "audio_accuracy": 0.5}
GOOD = {"retention_score": 0.76, "audio_accuracy": 0.7}
FORGETS = GOOD | {"retention_score": 0.75}
DEAF = GOOD | {"audio_accuracy": 0.69}
ONES = {"task": 1.0, "distill": 1.0, "feature": 1.0, "fisher": 1.0, "sparsity": 1.0}


def make(weights: Any, **terms: Any) -> LossWeights:
    return LossWeights(LossConfig(weights=weights, **{**ONES, **terms}), AudioCurriculumConfig())


def test_static_weights_are_those_that_are_given_in_every_stage_and_after_every_evaluation() -> None:
    weights = make("static", task=2.0, distill=0.5, feature=0.0)
    assert weights.judge({"retention_score": 0.0, "audio_accuracy": 0.0}, BASE) == ""
    expected = ONES | {"task": 2.0, "distill": 0.5, "feature": 0.0}
    assert weights.at() == weights.at(3, 4) == expected


def test_four_stages_have_the_weights_of_the_table() -> None:
    weights = make("stages")
    rows = [weights.at(stage, 4) for stage in range(4)]
    assert [(row["task"], row["feature"], row["distill"], row["fisher"]) for row in rows] == [
        (1.0, 0.1, 0.5, 0.1),
        (1.0, 0.3, 0.7, 0.2),
        (1.0, 0.5, 0.5, 0.3),
        (1.0, 0.7, 0.3, 0.5),
    ]
    assert {row["sparsity"] for row in rows} == {1.0}


def test_given_weights_are_factors_on_those_of_the_stage() -> None:
    weights = make("stages", distill=2.0, fisher=0.0, sparsity=0.01).at(1, 4)
    assert weights == {"task": 1.0, "distill": 1.4, "feature": 0.3, "fisher": 0.0, "sparsity": 0.01}


def test_other_numbers_of_stages_stand_between_the_rows_of_the_table() -> None:
    assert stage_weights(0, 1) == stage_weights(1, 2) == stage_weights(3, 4)
    assert stage_weights(0, 2) == stage_weights(0, 4)
    assert stage_weights(2, 7) == stage_weights(1, 4)
    middle = stage_weights(1, 3)  # half way between the second and the third row
    assert [middle[name] for name in ("task", "feature", "distill", "fisher")] == pytest.approx([1.0, 0.4, 0.6, 0.25])


def test_adaptive_weights_hold_harder_where_retention_falls_and_listen_more_where_accuracy_is_low() -> None:
    weights = make("adaptive", distill=2.0)
    assert weights.judge(GOOD, BASE) == ""
    assert weights.at() == ONES | {"distill": 2.0}
    assert weights.judge(FORGETS, BASE) == "distill, feature, fisher x 1.5, retention is below its goal"
    assert weights.at() == {"task": 1.0, "distill": 3.0, "feature": 1.5, "fisher": 1.5, "sparsity": 1.0}
    assert weights.judge(DEAF, BASE) == "task x 1.2, audio accuracy is below its goal"
    assert weights.at()["task"] == 1.2
    line = weights.judge({"retention_score": 0.0, "audio_accuracy": 0.0}, BASE)
    assert line.count(";") == 1
    assert weights.at() == pytest.approx(
        {"task": 1.44, "distill": 4.5, "feature": 2.25, "fisher": 2.25, "sparsity": 1.0}
    )


def test_no_weight_is_raised_for_ever() -> None:
    weights = make("adaptive")
    said = [weights.judge({"retention_score": 0.0, "audio_accuracy": 0.0}, BASE) for _ in range(20)]
    assert weights.at() == {"task": MOST, "distill": MOST, "feature": MOST, "fisher": MOST, "sparsity": 1.0}
    assert said[5].startswith("distill, feature, fisher x 1.5")  # 1.5^5 = 7.6, 1.5^6 = 11.4
    assert said[6] == "task x 1.2, audio accuracy is below its goal"
    assert said[12] != said[13] == ""  # 1.2^12 = 8.9, 1.2^13 = 10.7


def test_a_term_of_weight_0_is_neither_raised_nor_named() -> None:
    weights = make("adaptive", feature=0.0, fisher=0.0)
    assert weights.judge(FORGETS, BASE) == "distill x 1.5, retention is below its goal"
    assert weights.at()["fisher"] == 0.0


def test_after_a_roll_back_every_kind_of_weights_holds_harder() -> None:
    for kind in ("static", "stages", "adaptive"):
        weights = make(kind)
        before = weights.at(3, 4)
        assert weights.hold_harder() == "distill, feature, fisher x 1.5"
        raised = weights.at(3, 4)
        assert {name: raised[name] / before[name] for name in before} == pytest.approx(
            {"task": 1.0, "distill": 1.5, "feature": 1.5, "fisher": 1.5, "sparsity": 1.0}
        )


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=20), st.integers(0, 20))
def test_weights_go_on_bit_for_bit_from_their_state(walk: list[tuple[float, float, bool]], stop: int) -> None:
    whole, resumed = make("adaptive", task=0.3), make("adaptive", task=0.3)
    for number, (retention, accuracy, rolls_back) in enumerate(walk):
        if number == stop:
            state = json.loads(json.dumps(resumed.get_state()))
            resumed = make("adaptive", task=0.3)
            resumed.set_state(state)
        for each in (whole, resumed):
            each.judge({"retention_score": retention, "audio_accuracy": accuracy}, BASE)
            if rolls_back:
                each.hold_harder()
        assert whole.at() == resumed.at()
