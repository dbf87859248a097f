"""What a trial is worth, and what it reports on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.divergence import Diverged
from envs.outcomes import OutcomeTable
from safe_rl.config import RunConfig
from safe_rl.options import parse
from safe_rl.tuning.config import TuneConfig
from safe_rl.tuning.trials import Bench, SeedResult, Yardstick, _Watch, limits_broken, objectives, worth

RESULT = SeedResult(0, 100, utility=0.5, accuracy=0.75, latency_ms=10.0, usage=0.5, excess=-0.02, bound=-0.01)
RESULTS = [RESULT, replace(RESULT, seed=1, utility=0.25, accuracy=0.25, latency_ms=14.0, bound=0.03)]


def test_values_are_means_over_seeds() -> None:
    assert objectives(RESULTS, TuneConfig()) == [0.375]
    assert objectives(RESULTS, TuneConfig(objective="accuracy")) == [0.5]
    assert objectives(RESULTS, TuneConfig(mode="pareto")) == [0.5, 12.0]


def test_the_worst_seed_must_keep_the_limit_and_the_mean_the_latency() -> None:
    assert limits_broken(RESULTS, TuneConfig()) == [0.03, -1.0]
    assert limits_broken(RESULTS, TuneConfig(max_latency_ms=10.0)) == [0.03, pytest.approx(0.2)]
    assert limits_broken(RESULTS, TuneConfig(max_latency_ms=24.0)) == [0.03, -0.5]


def test_what_breaks_a_limit_is_worth_less_than_what_keeps_it() -> None:
    figures = {"tune/utility": 0.4, "tune/accuracy": 0.6, "tune/latency_ms": 12.0}
    assert worth(figures, -0.01, TuneConfig()) == 0.4
    assert worth(figures, 0.0, TuneConfig(objective="accuracy")) == 0.6
    assert worth(figures, 0.25, TuneConfig()) == -1.25
    assert worth(figures, -0.01, TuneConfig(max_latency_ms=10.0)) == pytest.approx(-1.2)


def entry(utility: float, bound: float = -0.1, **more: float) -> dict[str, float]:
    figures = {"tune/utility": utility, "tune/accuracy": utility, "tune/latency_ms": 10.0}
    return {"validation/utility": utility, "validation/bound": bound} | figures | more


def test_a_policy_reports_ten_times_what_would_be_selected_so_far() -> None:
    reports: list[tuple[int, float]] = []
    watch = _Watch(1000, 1, [0.8], TuneConfig(), lambda step, value: reports.append((step, value)))
    watch(50, {"train/loss": 1.0})  # alpha still grows
    watch(100, entry(0.9, bound=0.5))  # breaks the limit: worth -1.5
    watch(150, entry(0.2))
    watch(200, entry(0.2))
    watch(300, entry(0.4))
    watch(350, entry(0.6))
    watch(400, entry(0.1))  # the best so far stays
    watch(2000, entry(0.1))  # the last rollout ends beyond the total
    told = {step: pytest.approx((0.8 + value) / 2) for step, value in ((11, -1.5), (12, 0.2), (13, 0.4), (14, 0.6))}
    assert dict(reports) == told | {20: pytest.approx(0.7)}


@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_a_trial_that_diverges_is_never_taken_for_one_that_skips(
    agent: str, table: Path, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    argv = options(table, tmp_path, "--agent", agent, f"--{agent}.learning_rate", "1e300")
    config = parse(RunConfig, argv, "tune", "")
    with pytest.raises(Diverged, match=r"seed 0: (the policy is no longer finite|train/.* is nan) after"):
        list(Bench(OutcomeTable.open(table), config).train(config, lambda step, value: None))


def test_trials_are_measured_on_the_validation_rows_that_agents_are_judged_on(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_rl.tuning.trials.HELD_OUT_ROWS", 20)
    opened = OutcomeTable.open(table)
    split = opened.split("validation").sample(20)
    figures = Yardstick(opened, parse(RunConfig, [], "tune", ""))(np.ones(20, dtype=np.int64))
    assert len(opened.split("validation")) > 20
    assert figures["tune/accuracy"] == pytest.approx(split.score[:, 1].mean(), abs=1e-6)


def test_trials_are_compared_by_the_reward_of_the_run(table: Path) -> None:
    opened = OutcomeTable.open(table)
    split = opened.split("validation")
    run = parse(RunConfig, ["--reward.alpha", "2", "--reward.gamma", "0.5"], "tune", "")
    always = np.ones(len(split), dtype=np.int64)
    figures = Yardstick(opened, run)(always)
    extra = (split.latency_ms[:, 1] - split.latency_ms[:, 0]) / opened.header.latency_unit_ms
    expected = split.score[:, 1] - 2 * extra - 0.5 * (split.retention_set >= 0)
    assert figures["tune/utility"] == pytest.approx(expected.mean(), abs=1e-6)
    assert figures["tune/accuracy"] == pytest.approx(split.score[:, 1].mean(), abs=1e-6)
    assert figures["tune/usage"] == 1.0
