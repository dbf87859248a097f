"""One command distils the policies of a run; what is finished is reused, nothing is mixed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.certificates.certificate import CertifiedGate, load_certificate
from agents.gate_policy import load_policy
from agents.onnx_export import OnnxGate
from envs.outcomes import OutcomeTable
from safe_rl.distill import main
from safe_rl.distilling import shortfalls
from safe_rl.train_policy import main as train

STUDENT_FILES = ["certificate.json", "gate.onnx", "policy.json", "policy.safetensors"]


def options(table: Path, run_dir: Path, *more: str) -> list[str]:
    quick = "--distill.steps 300 --distill.hidden 32 --distill.learning_rate 1e-2".split()
    return ["--table", str(table), "--run_dir", str(run_dir), *quick, *more]


def read(run_dir: Path, name: str = "distill.json") -> Any:
    return json.loads((run_dir / name).read_text())


@pytest.fixture(scope="module")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two policies."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    quick = "--total_timesteps 6000 --seeds 2 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 1000".split()
    assert train(["--table", str(table), "--run_dir", str(folder), *quick]) == 0
    return folder


@pytest.fixture(scope="module")
def run_dir(trained: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with its students."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "run"))
    assert main(options(table, folder)) == 0
    return folder


def test_every_policy_has_a_student_that_decides_like_it(run_dir: Path, table: Path) -> None:
    features = OutcomeTable.open(table).split("test").observation(slice(None))
    told = read(run_dir)
    assert [entry["seed"] for entry in told["seeds"]] == [0, 1]
    for entry in told["seeds"]:
        teacher, student = (
            load_policy(run_dir / family / f"seed-{entry['seed']}") for family in ("policies", "distilled")
        )
        same = float((teacher.decide(features) == student.decide(features)).mean())
        assert entry["agreement"] == pytest.approx(same)
        assert same >= 0.98
        assert [len(bias) for _, bias in student.layers] == [32, 2]
        assert entry["utility_gained"]["mean"] == pytest.approx(
            entry["utility"]["student"]["mean"] - entry["utility"]["teacher"]["mean"], abs=1e-6
        )
        assert entry["utility_gained"]["low"] <= entry["utility_gained"]["mean"] <= entry["utility_gained"]["high"]
        assert entry["latency_us"].keys() == {"one_row_us", "row_us_1024"}
        assert entry["onnx_difference"] < 1e-5
    assert told["agreement"] == pytest.approx(np.mean([entry["agreement"] for entry in told["seeds"]]))
    assert told["policies"].keys() == {"teacher", "student"}
    assert told["warnings"] == []


def test_the_figures_of_the_teachers_are_those_of_the_training(run_dir: Path) -> None:
    trained = read(run_dir, "metrics.json")["policies"]["ppo_lagrangian"]
    assert read(run_dir)["policies"]["teacher"]["utility"] == pytest.approx(trained["utility"])


def test_a_student_ships_with_its_certificate_and_its_onnx_file(run_dir: Path, table: Path) -> None:
    features = OutcomeTable.open(table).split("test").observation(slice(None))
    for seed in (0, 1):
        folder = run_dir / "distilled" / f"seed-{seed}"
        assert sorted(path.name for path in folder.iterdir()) == STUDENT_FILES
        assert CertifiedGate.load(folder).decide(features).shape == (len(features["question"]),)
        exported = OnnxGate(folder / "gate.onnx").probabilities(features)
        np.testing.assert_allclose(exported, load_policy(folder).probabilities(features), atol=1e-6)


def test_the_table_of_figures_has_a_row_per_seed(
    run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, run_dir)) == 0
    shown = capsys.readouterr().out
    agreement = [f"{100 * entry['agreement']:.2f}" for entry in read(run_dir)["seeds"]]
    for number in (0, 1):
        assert any(line.split()[:2] == [str(number), agreement[number]] for line in shown.splitlines())
    assert f"Students: {run_dir / 'distilled'}, figures: {run_dir / 'distill.json'}" in shown


def test_finished_students_are_kept_and_a_new_policy_gets_its_own(trained: Path, table: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.move(run / "policies" / "seed-1", tmp_path / "later")
    assert main(options(table, run)) == 0
    first = [run / "distilled" / "seed-0" / name for name in STUDENT_FILES if name != "gate.onnx"]
    before = [path.stat().st_mtime_ns for path in first]
    shutil.move(tmp_path / "later", run / "policies" / "seed-1")
    assert main(options(table, run)) == 0
    assert [path.stat().st_mtime_ns for path in first] == before
    assert [entry["seed"] for entry in read(run)["seeds"]] == [0, 1]


def test_a_student_that_was_interrupted_becomes_the_same(run_dir: Path, table: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    broken = run / "distilled" / "seed-1"
    (broken / "policy.json").unlink()  # written last: a kill before it leaves this behind
    (broken / "policy.safetensors").write_bytes(b"half")
    assert main(options(table, run)) == 0
    for name in STUDENT_FILES:
        assert (broken / name).read_bytes() == (run_dir / "distilled" / "seed-1" / name).read_bytes()


def test_students_that_are_there_are_certified_by_the_settings_of_the_command(
    run_dir: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    student = run / "distilled" / "seed-0"
    weights = (student / "policy.safetensors").read_bytes()
    assert load_certificate(student).delta == 0.05
    assert main(options(table, run, "--certify.delta", "0.2", "--certify.limit", "0.4")) == 0
    for seed in (0, 1):
        certificate = load_certificate(run / "distilled" / f"seed-{seed}")
        assert (certificate.delta, [found.limit for found in certificate.sets]) == (0.2, [0.4])
    assert (student / "policy.safetensors").read_bytes() == weights  # the student itself is kept
    told = capsys.readouterr().err
    assert "warning: seed-0: the student had a certificate of other settings" in told
    assert "warning: seed-1: the student had" in told
    assert len(read(run)["warnings"]) == 2
    assert main(options(table, run, "--certify.delta", "0.2", "--certify.limit", "0.4")) == 0
    assert "other settings" not in capsys.readouterr().err


def test_a_wrong_number_of_limits_is_refused_before_anything_is_distilled(
    trained: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert main(options(table, run, "--certify.limit", "[0.1, 0.2]")) == 2
    assert "certify.limit must be one number or 1 (one per constraint), got 2" in capsys.readouterr().err
    assert not (run / "distilled").exists()


def test_students_of_other_settings_are_not_mixed_in(
    run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / "distill.json").read_bytes()
    assert main(options(table, run_dir, "--distill.hidden", "16")) == 2
    told = capsys.readouterr().err
    assert f"(distill.hidden 32 there, 16 here); delete {run_dir / 'distilled'} to distil again" in told
    assert told.count("\n") == 1
    assert (run_dir / "distill.json").read_bytes() == before


def test_a_student_of_another_policy_is_refused(
    run_dir: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    shutil.rmtree(run / "policies" / "seed-1")
    shutil.copytree(run / "policies" / "seed-0", run / "policies" / "seed-1")
    assert main(options(table, run)) == 1
    told = capsys.readouterr().err
    assert f"was distilled from another policy than {run / 'policies' / 'seed-1'}; delete" in told
    assert told.count("\n") == 1


def test_another_reward_than_that_of_the_policies_is_told(
    trained: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert main(options(table, run, "--reward.alpha", "0.2")) == 0
    told = capsys.readouterr().err.splitlines()[0]
    assert told.startswith("warning: the policies were trained for another reward")
    assert "give --reward.alpha 0.6 to choose by theirs" in told
    assert told.removeprefix("warning: ") in json.loads((run / "distill.json").read_text())["warnings"]
    assert load_certificate(run / "distilled" / "seed-0").alpha == 0.2


def test_a_table_that_the_policies_did_not_learn_from_is_refused(
    trained: Path, make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    other = make_table(tmp_path / "other", seed=1)
    assert main(options(other, run)) == 2
    assert "table_sha256" in capsys.readouterr().err
    (run / "policies" / "made_from.json").unlink()  # policies that were copied here
    assert main(options(other, run)) == 1
    assert "learned from another table than" in capsys.readouterr().err


def test_a_run_without_policies_is_told_what_to_do(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, tmp_path)) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path} has no trained policies; train them first with `python -m safe_rl.train_policy" in told
    assert told.count("\n") == 1


def test_without_onnx_a_run_is_distilled_all_the_same(
    trained: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert main(options(table, run)) == 2
    told = capsys.readouterr().err
    assert "onnx is not installed; run `pip install 'safe-rl-audio[export]'`, or give --distill.onnx false" in told
    assert not (run / "distilled").exists()
    assert main(options(table, run, "--distill.onnx", "false")) == 0
    assert not (run / "distilled" / "seed-0" / "gate.onnx").exists()
    assert "onnx_difference" not in read(run)["seeds"][0]


def test_a_table_without_calibration_rows_is_distilled_with_a_warning(
    make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(tmp_path / "table", shares=[0.5, 0.2, 0.0, 0.3])
    run = tmp_path / "run"
    quick = "--total_timesteps 1000 --seeds 1 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 0".split()
    assert train(["--table", str(table), "--run_dir", str(run), *quick]) == 0
    capsys.readouterr()
    assert main(options(table, run)) == 0
    assert "warning: the students are not certified: The table in" in capsys.readouterr().err
    assert not (run / "distilled" / "seed-0" / "certificate.json").exists()


def test_a_student_that_falls_short_is_warned_of() -> None:
    def entry(seed: int, agreement: float, gained: float) -> dict[str, Any]:
        return {"seed": seed, "agreement": agreement, "utility_gained": {"mean": gained}}

    assert shortfalls([entry(0, 0.98, -0.005), entry(1, 1.0, 0.2)]) == []
    told = shortfalls([entry(2, 0.973, 0.0), entry(3, 0.99, -0.0061), entry(4, 0.5, -0.1)])
    assert len(told) == 3
    assert told[0].startswith(
        "seed 2: the student falls short of its teacher: it decides like it on 97.3 % of the test"
    )
    assert "it has 0.61 points less utility, more than 0.5; give a larger --distill.hidden" in told[1]
    assert "50.0 % of the test rows, not 98 % and has 10.00 points less" in told[2]


def test_the_python_of_the_deployment_page_runs_without_torch(run_dir: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run_dir)
    shown = [
        subprocess.run(
            [sys.executable, "-c", f"{block}\nimport sys\nprint('torch' in sys.modules)"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for block in blocks
    ]
    assert [lines[-1] for lines in shown] == ["False"] * 3
    assert shown[0][0] in ("skip", "use")
    assert shown[1][0] in ("skip", "the most probable of the paying actions")
    assert shown[2][0].startswith("usage as certified: ")
