"""A learned policy beside its baselines: which figures there are, that they agree, and tables of every kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.config import RewardConfig
from envs.outcomes import OutcomeTable, TableWriter
from envs.table_format import Header
from safe_rl.comparison import METRICS, Judge, Report, compare
from safe_rl.units import UNITS

RANKED = ["random", "confidence", "type_majority", "oracle", "logistic", "knn", "mlp", "oracle_score"]
CURVES = ["apgr", "cpt50", "cpt80", "cpt95", "aiq"]


def other_table(folder: Path, actions: int = 2, columns: int = 6, retention: bool = True, types: bool = True) -> Path:
    """Write 600 questions in which the first feature tells whether audio repairs the answer."""
    rng = np.random.default_rng(0)
    n = 600
    needed = rng.random(n) < 0.4
    harmed = ~needed & (rng.random(n) < 0.1)
    heard = [np.where(needed, rng.random(n) < 0.6 + 0.1 * a, ~harmed) for a in range(1, actions)]
    tensors: dict[str, np.ndarray] = {
        "question": (np.where(needed, 1.0, -1.0)[:, None] + 0.7 * rng.standard_normal((n, 3))).astype(np.float32),
        "confidence": rng.standard_normal((n, columns)).astype(np.float32),
        "score": np.stack([~needed, *heard], axis=1).astype(np.float32),
        "latency_ms": (10.0 + 5.0 * np.arange(actions) + rng.random((n, actions))).astype(np.float32),
        "retention_set": np.where(needed | (not retention), -1, 0).astype(np.int16),
        "group": np.arange(n, dtype=np.int64) // 2,
        "split": np.repeat([0, 3], n // 2).astype(np.uint8),
    }
    widths = {"question": 3, "confidence": columns}
    if not columns:
        del tensors["confidence"]
    names = ("skip", "use", *(f"use_{a}" for a in range(2, actions)))
    records = [
        {"id": str(i), "predictions": []} | ({"type": "sound" if need else "sight"} if types else {})
        for i, need in enumerate(needed)
    ]
    provenance = {"flops": {name: 1e9 * (a + 1) for a, name in enumerate(names)}}
    writer = TableWriter(folder, Header(names, widths, ("vl",) if retention else (), provenance=provenance))
    writer.write_part(tensors, records, n)
    writer.finish()
    return folder


def a_policy(table: OutcomeTable, seeds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return decisions and chances of seeds that read the first feature through different noise."""
    question = table.split("test").features["question"][:][:, 0]
    noise = np.random.default_rng(1).normal(0, 0.5, (seeds, len(question)))
    sign = 1.0 if "sound" in table.split("test").types else -1.0  # the table of the fixtures has it the other way
    chances = 1 / (1 + np.exp(-sign * (question + noise)))
    return (chances > 0.5).astype(np.int64), chances


@pytest.fixture(scope="module")
def opened(table: Path) -> OutcomeTable:
    return OutcomeTable.open(table)


@pytest.fixture(scope="module")
def report(opened: OutcomeTable) -> Report:
    return compare(opened, RewardConfig(), *a_policy(opened))


def test_every_policy_has_every_figure_or_none_of_it(report: Report) -> None:
    assert list(report.policies) == ["ppo_lagrangian", "always", "never", *RANKED]
    names = {frozenset(set(figures) - {"audio_gain_share"}) for figures in report.policies.values()}
    assert len(names) == 1
    assert set(report.policies["ppo_lagrangian"]) <= set(UNITS)
    for name, figures in report.policies.items():
        undefined = {metric for metric, interval in figures.items() if interval is None}
        expected = {"flops"}
        if name in ("always", "never"):
            expected |= {*CURVES, "benefit_ece", "benefit_brier", "harm_ece", "harm_brier"}
        if name != "ppo_lagrangian":
            expected |= {"use_ece", "use_brier"}
        assert undefined == expected, name


def test_the_report_is_json_and_says_what_its_names_mean(report: Report) -> None:
    value = json.loads(json.dumps(report.as_json(), allow_nan=False))
    sections = {"policies", "matched_usage", "paired", "paired_matched_usage", "zero_router_aiq", "units"}
    assert set(value) == sections
    assert sections - {"policies", "units"} <= set(UNITS)


def test_at_matched_usage_audio_is_used_exactly_as_often(report: Report) -> None:
    assert list(report.matched_usage) == RANKED
    usage = report.policies["ppo_lagrangian"]["usage"]
    assert usage is not None
    for name, figures in report.matched_usage.items():
        assert figures["usage"] is not None
        assert figures["usage"]["mean"] == usage["mean"], name
        assert figures.keys() >= set(METRICS)
    score = {name: figures["utility"]["mean"] for name, figures in report.matched_usage.items() if figures["utility"]}
    assert score["oracle"] == max(score.values())
    assert score["random"] == min(score.values())


def test_differences_are_those_of_the_figures(report: Report) -> None:
    for paired, judged in ((report.paired, report.policies), (report.paired_matched_usage, report.matched_usage)):
        for name, differences in paired.items():
            for metric in ("utility", "accuracy"):
                ours, theirs = report.policies["ppo_lagrangian"][metric], judged[name][metric]
                assert ours is not None
                assert theirs is not None
                assert differences[metric]["mean"] == pytest.approx(ours["mean"] - theirs["mean"]), name
            assert len(differences["mcnemar"]["p_value"]) == 3
    assert list(report.paired) == ["always", "never", *RANKED]
    assert list(report.paired_matched_usage) == RANKED


def test_regret_is_what_the_oracle_has_more(report: Report) -> None:
    best = report.policies["oracle"]["utility"]
    for figures in report.policies.values():
        assert best is not None
        assert figures["utility"] is not None
        assert figures["regret"] is not None
        assert figures["regret"]["mean"] == pytest.approx(best["mean"] - figures["utility"]["mean"], abs=1e-6)


def test_a_ranking_that_tells_lies_above_the_coin_and_below_the_oracle(report: Report) -> None:
    apgr = {name: figures["apgr"]["mean"] for name, figures in report.policies.items() if figures["apgr"]}
    assert 0.5 < apgr["ppo_lagrangian"] < apgr["oracle_score"]
    assert apgr["random"] == pytest.approx(0.5, abs=0.1)
    aiq = report.policies["ppo_lagrangian"]["aiq"]
    assert aiq is not None
    assert report.zero_router_aiq is not None
    assert report.zero_router_aiq < aiq["mean"]


def test_without_chances_what_ranks_is_none_and_the_rest_is_the_same(opened: OutcomeTable, report: Report) -> None:
    decisions, _ = a_policy(opened)
    alone = compare(opened, RewardConfig(), decisions, learned="exact_gradient")
    figures = alone.policies["exact_gradient"]
    assert all(figures[name] is None for name in (*CURVES, "use_brier", "benefit_ece"))
    assert figures["utility"] == report.policies["ppo_lagrangian"]["utility"]
    assert alone.policies["mlp"] == report.policies["mlp"]


def test_the_quick_comparison_tells_the_same_at_every_alpha(opened: OutcomeTable, report: Report) -> None:
    decisions, _ = a_policy(opened)
    judge = Judge(opened, RewardConfig(alpha=7.0))
    judge.set_alpha(0.6)
    quick = judge.compare(decisions)
    assert list(quick) == ["ppo_lagrangian", "always", "never", "random", "confidence", "type_majority", "oracle"]
    for name, figures in quick.items():
        for metric, interval in figures.items():
            assert interval == report.policies[name][metric], (name, metric)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"columns": 6}, set()),
        ({"columns": 0}, {"entropy", "margin"}),
        ({"actions": 4}, set()),
        ({"retention": False, "types": False}, set()),
    ],
)
def test_tables_of_every_kind_are_judged(options: dict[str, Any], missing: set[str], tmp_path: Path) -> None:
    table = OutcomeTable.open(other_table(tmp_path / "table", **options))
    decisions, chances = a_policy(table)
    report = compare(table, RewardConfig(), decisions, chances)
    assert {"entropy", "margin"} - set(report.policies) == missing
    learned = report.policies["ppo_lagrangian"]
    assert learned["apgr"] is not None
    assert learned["flops"] is not None
    assert learned["usage"] is not None
    assert learned["flops"]["mean"] == pytest.approx(1e9 * (1 + learned["usage"]["mean"]))
    assert (learned["drop"] is None) == (not options.get("retention", True))
    for name in ("logistic", "knn", "mlp"):
        figures, never = report.policies[name]["utility"], report.policies["never"]["utility"]
        assert figures is not None
        assert never is not None
        assert figures["mean"] > never["mean"], name
    json.dumps(report.as_json(), allow_nan=False)


def test_of_several_budgets_the_one_that_the_policy_prefers_is_ranked(tmp_path: Path) -> None:
    """Decisions alone tell the budget only where audio was used; probabilities of all actions tell it everywhere."""
    table = OutcomeTable.open(other_table(tmp_path / "table", actions=3))
    used, chances = a_policy(table, seeds=1)
    whole = np.stack([1 - chances, 0.3 * chances, 0.7 * chances], axis=2)  # [1, n, 3]: always the larger one
    by_actions = compare(table, RewardConfig(), 2 * used, whole)
    by_use = compare(table, RewardConfig(), 2 * used, chances)
    small = compare(table, RewardConfig(), used, chances)
    curves = [{name: each.policies["ppo_lagrangian"][name] for name in CURVES} for each in (by_actions, by_use, small)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_chances_of_another_shape_than_the_decisions_are_refused(opened: OutcomeTable) -> None:
    decisions, chances = a_policy(opened)
    n = decisions.shape[1]
    with pytest.raises(ValueError, match=rf"chances must have shape \(3, {n}\) or \(3, {n}, 2\).*got \(2, {n}\)"):
        compare(opened, RewardConfig(), decisions, chances[:2])


def test_the_baselines_of_a_large_table_learn_from_a_sample(
    opened: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_rl.comparison.TRAIN_ROWS", 100)
    judge = Judge(opened, RewardConfig())
    train = set(opened.split("train").ids)
    assert len(judge.train) == len(set(judge.train.split.ids) & train) == 100 < len(train)
    decisions, chances = a_policy(opened)
    assert judge.report(decisions, chances).policies["knn"]["utility"] is not None


def test_a_baseline_never_sees_the_rows_that_it_is_judged_on(
    opened: OutcomeTable,
) -> None:
    """What a baseline decides on a test row follows from train rows and features, not from the row's outcome."""
    from agents.learned_baselines import SupervisedMLP

    judge = Judge(opened, RewardConfig())
    before = SupervisedMLP().fit(judge.train).decide(judge.rows)
    judge.rows.reward[:] = 0.0
    judge.rows.split.score[:] = 0.0
    assert np.array_equal(SupervisedMLP().fit(judge.train).decide(judge.rows), before)


def test_the_page_on_metrics_tells_every_name_and_its_example_runs(opened: OutcomeTable) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z0-9_]+)`", page))
    assert set(UNITS) | set(RANKED) | {"always", "never", "entropy", "margin", "exact_gradient"} <= told
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    judge = Judge(opened, RewardConfig())
    decided = names["LoudPreview"]().fit(judge.train).decide(judge.rows)
    preview = opened.split("test").features["audio_preview"][:][:, 0]
    mean = opened.split("train").features["audio_preview"][:][:, 0].mean()
    assert np.array_equal(decided, (preview > mean).astype(int))
