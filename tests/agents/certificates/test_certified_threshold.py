"""The choice of a threshold: hand-made rows with known answers, properties, and the same choice by MAPIE."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.certificates.bounds import betting_p_value, binomial_p_value
from agents.certificates.certificate import NEVER
from agents.certificates.certified_threshold import (
    CalibrationRows,
    Choice,
    choose_threshold,
    draw_questions,
    threshold_grid,
)
from agents.config import CertifyConfig


def rows_of(use: Any, harm: Any, **changes: Any) -> CalibrationRows:
    """Rows of one retention set, each a group; harm 1: right without audio, wrong with it, -1 the other way round.

    Whatever audio does to them, it earns a reward of 1, so that utility alone would always use it.
    """
    use, harm = np.asarray(use, dtype=np.float32), np.asarray(harm, dtype=float)
    n = len(use)
    values: dict[str, Any] = {
        "use_probability": use,
        "use_action": np.ones(n, dtype=np.int64),
        "score": np.stack([harm > 0, harm < 0], axis=1).astype(np.float32),
        "retention_set": np.zeros(n, dtype=np.int16),
        "group": np.arange(n),
        "reward": np.tile(np.array([0.0, 1.0]), (n, 1)),
    }
    return CalibrationRows(**values | changes)


def choose(rows: CalibrationRows, limit: float = 0.1, **config: Any) -> Choice:
    return choose_threshold(rows, {"vl": limit}, CertifyConfig(**config))


def test_the_walk_ends_before_the_harm_that_is_one_too_many() -> None:
    """100 questions at limit 10 %: four harms are certified (p = 0.024), five are not (p = 0.058)."""
    use, harm = np.linspace(0.99, 0.0, 100), np.zeros(100)
    harm[[10, 20, 30, 40, 50, 60]] = 1
    choice = choose(rows_of(use, harm))
    assert choice.threshold == pytest.approx((use[49] + use[50]) / 2)  # the fifth harm stays below it
    assert choice.sets[0].k == 4
    assert choice.sets[0].observed == 0.04
    assert choice.sets[0].bound == pytest.approx(0.0892, abs=1e-4)
    assert choice.usage == 0.5
    assert choice.utility == 0.5
    assert choice.utility_never == 0.0
    assert choice.wanted == 0.0
    assert choice.passed == 51  # infinity, and the thresholds below the first 50 questions
    assert choice.tried == 101


def test_nothing_behind_a_failure_is_certified_even_if_it_would_pass() -> None:
    """Net drop falls again behind the failure, so only the order of the tests keeps the promise."""
    use = np.linspace(1, 0, 400)
    harm = np.where(np.arange(400) < 100, 1.0, -1.0)
    grid = np.array([NEVER, 0.75, 0.0])
    rows = rows_of(use, harm)
    drawn = draw_questions(rows.group, np.ones(400, dtype=bool), [0, 0])
    assert betting_p_value(harm[drawn], 0.1, 0.05) <= 0.05  # always using audio gains a lot
    choice = choose_threshold(rows, {"vl": 0.1}, CertifyConfig(method="drop"), grid)
    assert choice.threshold == NEVER
    assert choice.passed == 1
    assert choice.wanted == 0.0


def test_with_method_drop_gains_pay_for_harms() -> None:
    use, grid = np.tile([0.9, 0.1], 1000), np.array([NEVER, 0.5, 0.0])
    harm = np.where(use > 0.5, np.tile([1.0, 0.0, -1.0, 0.0], 500), 0.0)  # a quarter harmed, a quarter helped
    by_method = {
        method: choose_threshold(rows_of(use, harm), {"vl": 0.1}, CertifyConfig(method=method), grid)
        for method in ("harm", "drop")
    }
    assert by_method["harm"].threshold == NEVER
    assert by_method["drop"].threshold == 0.0
    found = by_method["drop"].sets[0]
    assert (found.k, found.observed) == (500, 0.0)
    assert 0 < found.bound < 0.1


def test_a_question_whose_probability_is_the_threshold_counts_as_opened() -> None:
    """Two of a hundred questions are harmed, both at 0.5; at that threshold they are events, and opened."""
    use, harm = np.full(100, 0.25), np.zeros(100)
    use[:2], harm[:2] = 0.5, 1
    for limit, expected in ((0.1, 0.5), (0.04, NEVER)):  # no event certifies 4 %, two do not
        choice = choose_threshold(rows_of(use, harm), {"vl": limit}, CertifyConfig(), np.array([NEVER, 0.5]))
        assert choice.threshold == expected
        assert choice.wanted == 0.5
        assert choice.sets[0].wanted_observed == 0.02


def test_method_usage_reads_no_score() -> None:
    use = np.linspace(0.99, 0.0, 100)
    harm = np.random.default_rng(0).integers(-1, 2, 100)
    chosen = [choose(rows_of(use, labels), method="usage") for labels in (harm, np.zeros(100))]
    assert chosen[0].threshold == chosen[1].threshold
    assert chosen[0].sets == chosen[1].sets
    assert chosen[0].sets[0].k == 4  # as many uses as harms were allowed


def test_of_the_certified_thresholds_the_one_with_the_highest_utility_is_chosen() -> None:
    """Audio pays on the first 30 questions only; all thresholds are certified, because nothing is ever harmed."""
    use = np.linspace(0.99, 0.0, 100)
    reward = np.stack([np.zeros(100), np.where(np.arange(100) < 30, 1.0, -1.0)], axis=1)
    choice = choose(rows_of(use, np.zeros(100), reward=reward))
    assert choice.passed == choice.tried
    assert choice.threshold == choice.wanted == pytest.approx((use[29] + use[30]) / 2)
    assert choice.utility == pytest.approx(0.3)


def test_never_ships_where_audio_never_pays_although_thresholds_are_certified() -> None:
    reward = np.tile([0.0, -1.0], (100, 1))
    choice = choose(rows_of(np.linspace(0.99, 0, 100), np.zeros(100), reward=reward))
    assert choice.threshold == choice.wanted == NEVER
    assert choice.passed == choice.tried
    assert choice.sets[0].bound == choice.sets[0].k == 0


def test_too_few_questions_certify_only_never_and_tell_how_many_are_needed() -> None:
    harm = np.zeros(500)
    harm[0] = 1
    choice = choose(rows_of(np.linspace(0.99, 0, 500), harm), limit=0.003)
    assert choice.threshold == NEVER
    assert choice.passed == 1
    found = choice.sets[0]
    assert (found.n, found.needed) == (500, 998)
    assert found.wanted_observed == 0.002
    assert found.wanted_needed == 8496  # with 17 harms, which are 0.2 % of them
    assert binomial_p_value(17, 8496, 0.003) <= 0.05 < binomial_p_value(17, 8495, 0.003)
    assert choose(rows_of([0.5] * 500, np.ones(500)), limit=0.003).sets[0].wanted_needed is None


def test_every_retention_set_has_to_pass_at_its_own_limit() -> None:
    use, harm = np.repeat(np.linspace(0.99, 0.0, 100), 2), np.zeros(200)
    sets = np.tile([0, 1], 100).astype(np.int16)
    harm[[21, 41, 61, 81, 101]] = 1  # all in set 1
    rows = rows_of(use, harm, retention_set=sets)

    def chosen(*limits: float) -> Choice:
        return choose_threshold(rows, dict(zip(["a", "b"], limits, strict=True)), CertifyConfig())

    assert chosen(0.1, 0.1).sets[1].k == 4
    assert [found.n for found in chosen(0.1, 0.1).sets] == [100, 100]
    assert chosen(0.1, 0.5).threshold == 0.0
    assert chosen(0.02, 0.5).threshold == NEVER  # a hundred questions cannot certify 2 %
    assert [(found.name, found.limit) for found in chosen(0.1, 0.5).sets] == [("a", 0.1), ("b", 0.5)]


def test_any_loss_of_a_soft_score_is_harm() -> None:
    score = np.tile(np.array([1.0, 0.9], dtype=np.float32), (100, 1))  # right by the rule of 0.5, and still a drop
    assert choose(rows_of(np.linspace(0.99, 0, 100), np.zeros(100), score=score)).sets[0].wanted_observed == 1.0


def test_what_audio_does_to_a_question_is_what_its_own_paying_action_does() -> None:
    score = np.tile(np.array([1.0, 0.0, 1.0], dtype=np.float32), (100, 1))  # budget 1 harms, budget 2 does not
    reward = np.tile(np.array([0.0, 2.0, 1.0]), (100, 1))
    for action, expected in ((1, NEVER), (2, 0.0)):
        rows = rows_of(np.full(100, 0.7), np.zeros(100), score=score, reward=reward, use_action=np.full(100, action))
        assert choose(rows).threshold == expected
        assert choose(rows).sets[0].k == 0
        assert choose(rows).sets[0].wanted_observed == (1.0 if action == 1 else 0.0)


def test_questions_without_audio_do_not_dilute_the_test() -> None:
    """Half of the rows are bypassed: 4 harms in 100 pass at 10 %, 5 do not, whatever the others look like."""
    use, harm = np.repeat(np.linspace(0.99, 0.0, 100), 2), np.zeros(200)
    carries = np.tile([True, False], 100)
    harm[[20, 40, 60, 80, 100]] = 1
    choice = choose(rows_of(use, harm, carries_audio=carries))
    assert (choice.sets[0].n, choice.sets[0].rows, choice.sets[0].without_audio) == (100, 200, 100)
    assert choice.sets[0].k == 4
    assert choose(rows_of(use, harm)).threshold == 0.0  # 5 in 200 would pass


def test_rows_that_need_audio_have_a_say_in_utility_only() -> None:
    sets = np.where(np.arange(200) < 100, 0, -1).astype(np.int16)
    use, harm = np.tile(np.linspace(0.99, 0.0, 100), 2), np.zeros(200)
    harm[100:] = 1
    reward = np.stack([np.zeros(200), np.where(np.arange(200) < 100, -1.0, 3.0)], axis=1)
    choice = choose(rows_of(use, harm, retention_set=sets, reward=reward))
    assert (choice.threshold, choice.sets[0].n, choice.sets[0].k) == (0.0, 100, 0)
    assert choice.utility == pytest.approx(1.0)


def test_one_question_per_group_is_drawn_at_random_and_again_the_same_by_the_same_seed() -> None:
    group = np.repeat(np.arange(50), 4)
    eligible = np.arange(200) % 4 < 3
    drawn = draw_questions(group, eligible, 0)
    assert sorted(group[drawn].tolist()) == list(range(50))
    assert eligible[drawn].all()
    assert np.array_equal(drawn, draw_questions(group, eligible, 0))
    assert not np.array_equal(drawn, np.sort(drawn))
    places = np.concatenate([draw_questions(group, eligible, seed) for seed in range(60)]) % 4
    assert np.bincount(places, minlength=4)[3] == 0
    assert np.all(np.abs(np.bincount(places, minlength=4)[:3] - 1000) < 130)  # each about a third of 3000


def test_a_group_is_asked_once_however_many_rows_it_has() -> None:
    use, harm = np.repeat(np.linspace(0.99, 0.0, 100), 5), np.zeros(500)
    choice = choose(rows_of(use, harm, group=np.repeat(np.arange(100), 5)), limit=0.02)
    assert (choice.sets[0].n, choice.sets[0].rows) == (100, 500)
    assert choice.threshold == NEVER  # 149 questions would be needed; there are 500 rows, but 100 groups


def test_the_same_question_may_be_drawn_for_no_other_set() -> None:
    group, sets = np.repeat(np.arange(100), 2), np.tile([0, 1], 100).astype(np.int16)
    rows = rows_of(np.linspace(1, 0, 200), np.zeros(200), group=group, retention_set=sets)
    choice = choose_threshold(rows, {"a": 0.1, "b": 0.1}, CertifyConfig())
    assert [set(sets[drawn].tolist()) for drawn in choice.drawn] == [{0}, {1}]
    assert [len(drawn) for drawn in choice.drawn] == [100, 100]


values = arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32))


@given(values, st.integers(1, 20))
def test_thresholds_fall_from_never_to_always_and_lie_on_no_value(use: np.ndarray, points: int) -> None:
    grid = threshold_grid(use, points)
    assert grid[0] == NEVER
    assert grid[-1] == 0.0
    assert np.all(np.diff(grid[1:]) < 0)
    assert len(grid) <= points + 2
    inner = grid[1:-1]
    assert np.all(np.abs(inner[:, None] - use[None].astype(np.float64)) > 2e-7)


def test_values_that_rounding_may_part_are_not_parted() -> None:
    grid = threshold_grid(np.array([0.5, 0.5 + 5e-7, 0.5 - 5e-7, 0.9]), 10)
    assert grid.tolist() == [NEVER, pytest.approx(0.7, abs=1e-5), 0.0]


def test_a_long_grid_is_thinned_evenly_and_keeps_its_ends() -> None:
    grid = threshold_grid(np.arange(1001) / 1000, 11)
    np.testing.assert_allclose(grid[1:-1], np.linspace(0.9995, 0.0005, 11), atol=6e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["harm", "usage", "drop"]))
def test_a_wider_promise_never_certifies_less(seed: int, method: Literal["harm", "usage", "drop"]) -> None:
    rng = np.random.default_rng(seed)
    use = rng.random(300).round(2)
    rows = rows_of(use, rng.choice([-1, 0, 1], 300, p=[0.03, 0.9, 0.07]))
    grid = threshold_grid(np.linspace(0, 1, 40), 40)

    def passed(limit: float, delta: float) -> int:
        config = CertifyConfig(method=method, delta=delta)
        return choose_threshold(rows, {"vl": limit}, config, grid).passed

    by_limit = [passed(limit, 0.05) for limit in (0.0, 0.02, 0.05, 0.2, 1.0)]
    assert by_limit == sorted(by_limit)
    assert by_limit[0] == 1
    assert by_limit[-1] == len(grid)
    if method != "drop":  # bets are tuned to delta, so that another delta is another test
        by_delta = [passed(0.05, delta) for delta in (0.001, 0.05, 0.3)]
        assert by_delta == sorted(by_delta)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_the_chosen_threshold_does_what_is_told_of_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 400
    use = rng.random(n).round(3).astype(np.float32)
    rows = rows_of(
        use,
        rng.choice([-1, 0, 1], n, p=[0.1, 0.88, 0.02]),
        reward=rng.normal(size=(n, 2)),
        retention_set=rng.integers(-1, 1, n),
        group=rng.integers(0, 300, n),
    )
    choice = choose(rows)
    opened = use.astype(np.float64) >= choice.threshold
    assert choice.usage == opened.mean()
    assert choice.utility == pytest.approx(np.where(opened, rows.reward[:, 1], rows.reward[:, 0]).mean())
    drawn = choice.drawn[0]
    assert choice.sets[0].k == int((opened & (rows.loss > 0))[drawn].sum())
    assert choice.sets[0].bound <= 0.1
    assert choice.utility >= choice.utility_never


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_action": np.ones(3)}, r"use_action must have one entry per row \(4\), got 3"),
        ({"score": np.full((4, 2), np.nan)}, r"score must lie in \[0, 1\] and not be NaN"),
        ({"use_probability": np.array([0, 1, 2, 0.5])}, r"use_probability must lie in \[0, 1\]"),
        ({"reward": np.full((4, 2), np.inf)}, "reward must be finite"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of(np.linspace(0, 1, 4), np.zeros(4), **changes)


def test_a_promise_about_nothing_is_refused() -> None:
    rows = rows_of(np.linspace(0, 1, 4), np.zeros(4))
    with pytest.raises(ValueError, match=r"Every retention set needs calibration questions with audio, got \[4, 0\]"):
        choose_threshold(rows, {"a": 0.1, "b": 0.1}, CertifyConfig())
    with pytest.raises(ValueError, match=r"with audio, got \[\]"):
        choose_threshold(rows, {}, CertifyConfig())
    with pytest.raises(ValueError, match=r"with audio, got \[0\]"):
        choose(rows_of(np.linspace(0, 1, 4), np.zeros(4), carries_audio=np.zeros(4, dtype=bool)))


def test_a_grid_that_could_cheat_is_refused() -> None:
    rows = rows_of(np.linspace(0, 1, 4), np.zeros(4))
    with pytest.raises(ValueError, match=r"certify\.method drop needs a grid of thresholds from other rows"):
        choose(rows, method="drop")
    for grid in ([0.9, 0.1], [NEVER, 0.1, 0.9], []):
        with pytest.raises(ValueError, match="The grid of thresholds must fall, with infinity first"):
            choose_threshold(rows, {"vl": 0.1}, CertifyConfig(), np.array(grid))


@pytest.mark.parametrize("seed", range(6))
def test_mapie_certifies_the_same_thresholds(seed: int) -> None:
    """MAPIE rounds the number of harms up in floats, which may add one: it may certify less, by that harm only."""
    from mapie.risk_control import BinaryClassificationController, BinaryRisk

    rng = np.random.default_rng(seed)
    n, limit = 4000, 0.01
    use = rng.random(n).astype(np.float32)
    harm = (rng.random(n) < 0.05 * (1 - use)).astype(int)
    grid = np.concatenate([[NEVER], np.linspace(0.99, 0.01, 50)])
    ours = choose_threshold(rows_of(use, harm), {"vl": limit}, CertifyConfig(), grid)

    def everyone(y: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.ones(len(y), dtype=bool)

    controller = BinaryClassificationController(
        lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        BinaryRisk(lambda y, p: (p == 1) & (y == 1), everyone, higher_is_better=False),
        target_level=limit,
        confidence_level=0.95,
        best_predict_param_choice=BinaryRisk(lambda y, p: p == 1, everyone, higher_is_better=True),
        list_predict_params=grid[1:],
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks on risks that do not rise strictly
        controller.calibrate(use.astype(np.float64)[:, None], harm)
    theirs = sorted(np.asarray(controller.valid_predict_params, dtype=float).tolist(), reverse=True)
    mine = grid[1 : ours.passed].tolist()
    assert theirs == mine[: len(theirs)]
    assert 10 < len(theirs)
    if len(theirs) < len(mine):
        opened = use >= mine[len(theirs)]
        most = np.flatnonzero(binomial_p_value(np.arange(100), n, limit) <= 0.05).max()
        assert int(harm[opened].sum()) == most  # one more, by rounding, would be one too many
