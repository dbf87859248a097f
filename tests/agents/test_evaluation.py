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
        "regret": np.mean([(rows.reward.max(axis=1) - rows.reward[at, row]).mean() for row in actions]),
    }
    for name, value in expected.items():
        assert metrics[name]["mean"] == pytest.approx(value, abs=1e-5), name
        assert metrics[name]["low"] <= metrics[name]["mean"] <= metrics[name]["high"], name
    use, skip = rows.split.score[~irrelevant, 1].mean(), base[~irrelevant].mean()
    share = (expected["audio_accuracy"] - skip) / (use - skip)
    assert metrics["audio_gain_share"]["mean"] == pytest.approx(share, abs=1e-5)
    assert set(metrics) == {*expected, "audio_gain_share", "latency_p50_ms", "latency_p95_ms"}


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


def test_percentiles_of_latency_are_those_of_all_decisions(rows_of: Callable[..., OutcomeBatches]) -> None:
    latency = np.stack([np.arange(1.0, 101.0), np.full(100, 1000.0)], axis=1)
    rows = rows_of(np.ones((100, 2)), latency)
    metrics = Evaluation(rows).metrics(np.zeros(100))
    assert metrics["latency_p50_ms"]["mean"] == 50.0
    assert metrics["latency_p95_ms"]["mean"] == 95.0
    actions = np.stack([np.zeros(100), np.arange(100) < 20]).astype(int)  # one decision in ten takes a second
    metrics = Evaluation(rows).metrics(actions)
    assert metrics["latency_p95_ms"]["mean"] == 1000.0
    pooled = np.concatenate([latency[:, 0], latency[20:, 0], latency[:20, 1]])
    assert metrics["latency_p50_ms"]["mean"] == np.quantile(pooled, 0.5, method="inverted_cdf")


@pytest.mark.parametrize(("name", "share"), [("latency_p50_ms", 0.5), ("latency_p95_ms", 0.95)])
def test_intervals_of_percentiles_are_those_of_percentiles_of_resamples(
    name: str, share: float, rows_of: Callable[..., OutcomeBatches]
) -> None:
    """Woodruff's interval agrees with taking the percentile anew in every resample of the groups."""
    rng = np.random.default_rng(0)
    group = np.arange(2000) // 4
    latency = np.exp(rng.normal(size=500))[group] + rng.random(2000)
    interval = Evaluation(rows_of(np.ones((2000, 2)), np.stack([latency, latency], axis=1), group=group)).metrics(
        np.zeros(2000)
    )[name]
    drawn = [latency.reshape(500, 4)[rng.integers(500, size=500)] for _ in range(1000)]
    low, high = np.percentile([np.quantile(each, share) for each in drawn], [2.5, 97.5])
    width = high - low
    assert interval["low"] == pytest.approx(low, abs=0.2 * width)
    assert interval["high"] == pytest.approx(high, abs=0.2 * width)


def test_percentiles_of_equal_latencies_have_no_width(rows_of: Callable[..., OutcomeBatches]) -> None:
    metrics = Evaluation(rows_of(np.ones((50, 2)))).metrics(np.ones(50))
    assert metrics["latency_p50_ms"] == {"mean": 20.0, "low": 20.0, "high": 20.0}


def test_operations_are_those_of_the_actions_where_the_table_tells_them(rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of(np.ones((4, 2)), provenance={"flops": {"skip": 1e9, "use": 3e9}})
    assert Evaluation(rows).metrics(np.array([0, 0, 0, 1]))["flops"]["mean"] == pytest.approx(1.5e9)


@pytest.mark.parametrize("told", [None, "many", {"skip": 1e9}, {"skip": 1e9, "use": "x"}, {"skip": 1e9, "use": -1.0}])
def test_operations_that_are_not_told_are_left_out(told: object, rows_of: Callable[..., OutcomeBatches]) -> None:
    rows = rows_of(np.ones((4, 2)), provenance={"flops": told})
    assert "flops" not in Evaluation(rows).metrics(np.zeros(4))


def test_many_groups_are_joined_and_the_interval_stays(
    rows_of: Callable[..., OutcomeBatches], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = rows_of((rng.random((4000, 2)) < 0.5), group=np.repeat(rng.permutation(2000), 2))
    alone = Evaluation(rows, 2000).metrics(np.zeros(4000))["accuracy"]
    monkeypatch.setattr("agents.metrics.resamples.GROUPS", 400)
    evaluation = Evaluation(rows, 2000)
    assert evaluation.resamples.counts.shape == (2000, 400)
    _, firsts = np.unique(rows.split.group, return_index=True)
    assert np.array_equal(evaluation.resamples.group[firsts][rows.split.group], evaluation.resamples.group)
    joined = evaluation.metrics(np.zeros(4000))["accuracy"]
    assert joined["mean"] == alone["mean"]
    assert joined["high"] - joined["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.12)


def test_metrics_can_be_asked_for_by_name(rows: OutcomeBatches) -> None:
    samples = Evaluation(rows, 100).samples(np.ones(len(rows)), only=("utility",))
    assert list(samples) == ["utility"]
    assert samples["utility"][1].shape == (100,)
