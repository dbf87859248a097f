from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import pytest

from agents.evaluation import Evaluation, evaluate
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable


@pytest.fixture(scope="module")
def rows(table: OutcomeTable) -> OutcomeBatches:
    return OutcomeBatches(table.split("test"), RewardConfig())


def test_means_are_those_computed_row_by_row(rows: OutcomeBatches) -> None:
    actions = np.random.default_rng(0).integers(2, size=(3, len(rows)))
    metrics = Evaluation(rows).metrics(actions)
    at = np.arange(len(rows))
    score = np.stack([rows.split.score[at, row] for row in actions])
    base, irrelevant = rows.split.score[:, 0], rows.split.retention_set >= 0
    expected = {
        "accuracy": score.mean(),
        "audio_accuracy": score[:, ~irrelevant].mean(),
        "retention_score": score[:, irrelevant].mean(),
        "drop": (base - score)[:, irrelevant].mean(),
        "harm": ((base == 1) & (score == 0))[:, irrelevant].mean(),
        "usage": actions.mean(),
        "latency_ms": np.mean([rows.split.latency_ms[at, row].mean() for row in actions]),
        "utility": np.mean([rows.reward[at, row].mean() for row in actions]),
    }
    for name, value in expected.items():
        assert metrics[name]["mean"] == pytest.approx(value, abs=1e-5), name
        assert metrics[name]["low"] <= metrics[name]["mean"] <= metrics[name]["high"], name
    use, skip = rows.split.score[~irrelevant, 1].mean(), base[~irrelevant].mean()
    share = (expected["audio_accuracy"] - skip) / (use - skip)
    assert metrics["audio_gain_share"]["mean"] == pytest.approx(share, abs=1e-5)
    assert set(metrics) == {*expected, "audio_gain_share"}


def test_the_drop_is_the_mean_cost_of_the_environment(rows: OutcomeBatches) -> None:
    actions = np.random.default_rng(0).integers(2, size=len(rows))
    cost = rows.cost[np.arange(len(rows)), 0, actions].mean()
    assert Evaluation(rows).metrics(actions)["drop"]["mean"] == pytest.approx(cost, abs=1e-6)


def test_never_drops_nothing_and_always_has_all_of_its_gain(rows: OutcomeBatches) -> None:
    nothing = Evaluation(rows).metrics(np.zeros(len(rows)))
    everything = Evaluation(rows).metrics(np.ones(len(rows)))
    assert nothing["drop"] == nothing["harm"] == nothing["usage"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert nothing["audio_gain_share"]["mean"] == 0.0
    for value in everything["audio_gain_share"].values():
        assert value == pytest.approx(1.0, abs=1e-5)


def test_intervals_resample_groups_and_not_rows(make_table: Callable[..., OutcomeTable]) -> None:
    """Rows that repeat in their group carry no news: the interval is that of the groups."""
    rows = OutcomeBatches(make_table().split("test"), RewardConfig())
    pairs = np.arange(len(rows)) // 2 * 2
    rows.split.__dict__["score"] = rows.split.score[pairs]  # both rows of a group are the same
    half_width = {}
    for name, group in {"groups": np.arange(len(rows)) // 2, "rows": np.arange(len(rows))}.items():
        rows.split.__dict__["group"] = group
        interval = Evaluation(rows, 2000).metrics(np.ones(len(rows)))["accuracy"]
        half_width[name] = (interval["high"] - interval["low"]) / 2
    accuracy = rows.split.score[:, 1].mean()
    assert half_width["rows"] == pytest.approx(1.96 * np.sqrt(accuracy * (1 - accuracy) / len(rows)), rel=0.1)
    assert half_width["groups"] == pytest.approx(np.sqrt(2) * half_width["rows"], rel=0.1)


def test_several_seeds_that_differ_widen_the_interval(rows: OutcomeBatches) -> None:
    actions = np.stack([np.zeros(len(rows)), np.ones(len(rows))])
    usage = Evaluation(rows).metrics(actions)["usage"]
    assert (usage["low"], usage["mean"], usage["high"]) == (0.0, 0.5, 1.0)


def test_equal_seeds_give_equal_intervals(rows: OutcomeBatches) -> None:
    actions = np.random.default_rng(0).integers(2, size=(2, len(rows)))
    assert Evaluation(rows, seed=1).metrics(actions) == Evaluation(rows, seed=1).metrics(actions)
    assert Evaluation(rows, seed=1).metrics(actions) != Evaluation(rows, seed=2).metrics(actions)


def test_a_metric_without_rows_is_left_out_and_the_rest_is_json(make_table: Callable[..., OutcomeTable]) -> None:
    rows = OutcomeBatches(make_table(retention=False).split("test"), RewardConfig())
    metrics = evaluate({"always": np.ones(len(rows))}, rows)["always"]
    assert {"drop", "harm", "retention_score"}.isdisjoint(metrics)
    assert json.dumps(metrics, allow_nan=False)


def test_a_mean_lies_within_its_interval_also_where_all_resamples_are_equal(
    make_table: Callable[..., OutcomeTable],
) -> None:
    rows = OutcomeBatches(make_table({0: 30, 3: 31}).split("test"), RewardConfig())
    rows.split.group[:] = 0  # a single group: every resample is the whole, summed in float32
    for interval in Evaluation(rows).metrics(rows.reward.argmax(axis=1)).values():
        assert interval["low"] <= interval["mean"] <= interval["high"]


def test_actions_of_a_wrong_shape_are_refused(rows: OutcomeBatches) -> None:
    with pytest.raises(ValueError, match=r"actions must have shape \(seeds, 300\), got \(1, 5\)"):
        Evaluation(rows).metrics(np.zeros(5))
    with pytest.raises(ValueError, match=r"n_resamples must be at least 2, got 1"):
        Evaluation(rows, 1)


def test_seven_policies_of_five_seeds_on_4000_rows_take_seconds(make_table: Callable[..., OutcomeTable]) -> None:
    rows = OutcomeBatches(make_table({0: 50, 3: 4000}).split("test"), RewardConfig())
    actions = np.random.default_rng(0).integers(2, size=(5, len(rows)))
    start = time.perf_counter()
    evaluate({str(i): actions for i in range(7)}, rows)
    assert time.perf_counter() - start < 5.0
