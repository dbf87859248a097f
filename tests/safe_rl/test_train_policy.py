"""One command trains a policy on a table and says what it is worth; what is finished is reused, nothing is mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safe_rl.train_policy import main

QUICK = ["ppo_lagrangian", "always", "never", "random", "confidence", "type_majority", "oracle"]
POLICIES = [*QUICK, "logistic", "knn", "mlp", "oracle_score"]
METRICS = {"accuracy", "audio_accuracy", "retention_score", "drop", "harm", "usage", "latency_ms", "utility", "regret"}


@pytest.fixture(scope="module")
def run_dir(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(options(table, folder)) == 0
    return folder


def options(table: Path, run_dir: Path, *more: str) -> list[str]:
    quick = "--total_timesteps 6000 --seeds 2 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 1000".split()
    return ["--table", str(table), "--run_dir", str(run_dir), *quick, *more]


def read(run_dir: Path, name: str = "metrics.json") -> Any:
    return json.loads((run_dir / name).read_text())


def test_metrics_hold_every_policy_with_intervals(run_dir: Path) -> None:
    metrics = read(run_dir)
    assert metrics["seeds"] == [0, 1]
    assert metrics["gate_zero_bit_exact"] is None  # a table without a model cannot tell
    assert list(metrics["policies"]) == POLICIES
    for figures in metrics["policies"].values():
        assert figures.keys() >= METRICS
        assert all(figures[name]["low"] <= figures[name]["mean"] <= figures[name]["high"] for name in METRICS)
    assert (metrics["alpha"], metrics["gamma"], metrics["limit"]) == (0.6, 0.1, 0.003)
    assert metrics["policies"]["ppo_lagrangian"]["apgr"]["mean"] > 0.6  # the chances rank the questions
    assert list(metrics["matched_usage"]) == POLICIES[3:]
    assert list(metrics["paired"]) == POLICIES[1:]
    assert metrics["policies"]["ppo_lagrangian"].keys() <= metrics["units"].keys()


def test_what_is_constant_is_told_exactly(run_dir: Path) -> None:
    policies = read(run_dir)["policies"]
    assert policies["never"]["drop"] == policies["never"]["usage"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert policies["always"]["usage"]["mean"] == 1.0
    assert policies["random"]["usage"]["mean"] == pytest.approx(policies["ppo_lagrangian"]["usage"]["mean"], abs=0.06)
    assert policies["oracle"]["utility"]["mean"] >= max(figures["utility"]["mean"] for figures in policies.values())


def test_the_policy_beats_never_and_always(run_dir: Path) -> None:
    utility = {name: figures["utility"]["mean"] for name, figures in read(run_dir)["policies"].items()}
    assert utility["ppo_lagrangian"] > max(utility["never"], utility["always"], utility["random"])


def test_the_share_of_the_gain_is_that_of_the_accuracies(run_dir: Path) -> None:
    metrics = read(run_dir)
    learned, always, never = (
        metrics["policies"][name]["audio_accuracy"]["mean"] for name in ("ppo_lagrangian", "always", "never")
    )
    assert metrics["share_of_audio_gain"]["mean"] == pytest.approx((learned - never) / (always - never))


def test_decisions_have_a_line_per_test_question_and_an_entry_per_seed(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "decisions.jsonl").read_text().splitlines()]
    assert len(lines) == read(run_dir)["test_questions"] > 300
    assert len({line["id"] for line in lines}) == len(lines)
    for line in lines:
        assert len(line["use_probability"]) == len(line["action"]) == 2
        for chance, action in zip(line["use_probability"], line["action"], strict=True):
            assert action == (chance > 0.5)
    usage = sum(sum(line["action"]) for line in lines) / (2 * len(lines))
    assert usage == pytest.approx(read(run_dir)["policies"]["ppo_lagrangian"]["usage"]["mean"])


def test_the_folder_holds_what_a_run_leaves(run_dir: Path, table: Path) -> None:
    for name in ("config.yaml", "run.json", "metrics.jsonl", "policies/seed-1/policy.safetensors"):
        assert (run_dir / name).stat().st_size > 0
    assert len(list((run_dir / "tensorboard").rglob("events.*"))) == 2
    with Image.open(run_dir / "accuracy_latency.png") as picture:
        assert picture.format == "PNG"
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["part"] == "seed-1"] == list(range(500, 6001, 500))
    assert read(run_dir, "run.json")["hashes"]["table"] == read(run_dir)["table_sha256"]


def test_the_resolved_configuration_repeats_the_run(run_dir: Path, tmp_path: Path) -> None:
    assert main(["--config", str(run_dir / "config.yaml"), "--run_dir", str(tmp_path / "again")]) == 0
    assert read(tmp_path / "again") == read(run_dir)
    first, second = (folder / "decisions.jsonl" for folder in (run_dir, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_the_same_command_takes_the_finished_policies(run_dir: Path, table: Path) -> None:
    policies = sorted(run_dir.glob("policies/seed-*/policy.safetensors"))
    before = [path.stat().st_mtime_ns for path in policies]
    metrics = read(run_dir)
    assert main(options(table, run_dir)) == 0
    assert [path.stat().st_mtime_ns for path in policies] == before
    assert len(before) == 2
    assert read(run_dir) == metrics


def test_another_configuration_in_the_same_folder_is_refused(
    run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / "config.yaml").read_bytes()
    assert main(options(table, run_dir, "--reward.alpha", "0.4")) == 2
    told = capsys.readouterr().err
    assert "(reward.alpha 0.6 there, 0.4 here); give another --run_dir;" in told
    assert f"--table {table} spares it the building." in told
    assert told.count("\n") == 1
    assert (run_dir / "config.yaml").read_bytes() == before


def test_more_seeds_go_on_with_resume_only(
    run_dir: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    assert main(options(table, copy, "--seeds", "3")) == 2
    assert "--resume continues it, another --run_dir starts afresh" in capsys.readouterr().err
    assert main(options(table, copy, "--seeds", "3", "--resume")) == 0
    assert read(copy)["seeds"] == [0, 1, 2]
    for seed in (0, 1):
        name = f"policies/seed-{seed}/policy.safetensors"
        assert (copy / name).read_bytes() == (run_dir / name).read_bytes()


def test_a_table_of_another_build_does_not_mix_with_a_run(
    run_dir: Path, make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_table(tmp_path / "other", seed=1)
    before = (run_dir / "config.yaml").read_bytes()
    assert main(options(other, run_dir)) == 2
    assert "was made with another configuration (table_sha256" in capsys.readouterr().err
    assert (run_dir / "config.yaml").read_bytes() == before


def test_a_table_without_validation_rows_is_refused_before_anything_is_trained(
    make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(tmp_path / "table", shares=[0.7, 0.0, 0.0, 0.3])
    assert main(options(table, tmp_path / "run")) == 1
    told = capsys.readouterr().err
    assert "has no validation rows, which are needed to choose a policy by" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run" / "policies").exists()


def test_a_limit_that_was_refused_can_be_corrected_in_the_same_folder(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--seeds", "1", "--total_timesteps", "1000"]
    assert main(options(table, tmp_path, *quick, "--lagrangian.limit", "[0.1, 0.2]")) == 2
    assert "one number or 1 (one per constraint), got 2: [0.1, 0.2]" in capsys.readouterr().err
    assert main(options(table, tmp_path, *quick, "--lagrangian.limit", "[0.1]")) == 0
    assert read(tmp_path)["limit"] == [0.1]


@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_training_that_leaves_the_finite_numbers_is_one_line_and_leaves_no_policy(
    agent: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, tmp_path / "run", "--agent", agent, f"--{agent}.learning_rate", "1e300")) == 1
    told = capsys.readouterr().err
    assert "error: Training diverged, seed 0: " in told
    assert f"; lower {agent}.learning_rate." in told
    assert not list((tmp_path / "run").glob("policies/seed-0/policy.*"))


def test_training_that_ends_before_alpha_is_final_is_warned_of(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--seeds", "1", "--total_timesteps", "1000"]
    assert main(options(table, tmp_path / "run", *short, "--curriculum.steps", "501")) == 0
    assert "give e.g. --curriculum.steps 200" in capsys.readouterr().err
    assert "the multiplier waits" in read(tmp_path / "run")["warnings"][0]
    assert main(options(table, tmp_path / "other", *short, "--curriculum.steps", "500")) == 0
    assert "curriculum" not in capsys.readouterr().err


def test_a_table_without_retention_questions_is_warned_of(
    make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "--seeds 1 --agent exact --exact.steps 20 --exact.judgements 2 --smoothing.trees 0".split()
    argv = options(make_table(tmp_path / "table", retained=[]), tmp_path / "run", *quick)
    assert main(argv) == 0
    assert "no retention questions to learn from, so lagrangian.limit holds nothing" in capsys.readouterr().err
    assert main([*argv, "--lagrangian.maximum", "0", "--run_dir", str(tmp_path / "free")]) == 0
    assert "no retention questions" not in capsys.readouterr().err


def test_the_provenance_of_a_table_says_whether_gate_zero_is_exact(
    make_table: Callable[..., Path], tmp_path: Path
) -> None:
    table = make_table(tmp_path / "table", provenance={"gate_zero_bit_exact": True})
    assert main(options(table, tmp_path / "run", "--seeds", "1", "--total_timesteps", "1000")) == 0
    assert read(tmp_path / "run")["gate_zero_bit_exact"] is True


def test_a_table_without_retention_questions_is_judged_on_what_it_has(tmp_path: Path, table: Path) -> None:
    from safe_rl.report import table_of

    figures = {name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in METRICS} | {"drop": None}
    assert table_of({"never": figures}, "Title").row_count == 1
