from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safe_rl.build_outcomes import main as build_outcomes
from safe_rl.diagnosing import tables_of, training_of
from safe_rl.evaluate import main as evaluate
from safe_rl.evaluating import Means, Outcomes, report
from safe_rl.train_policy import main as train_policy
from safe_rl.train_stage_a import main as train_stage_a

DIAGNOSTICS = ["alignment", "attention", "cka", "delta_logits", "gate_sweep", "monitors", "residual"]


@pytest.fixture(scope="module")
def words(manifest: Path, tiny: list[str]) -> list[str]:
    return [*tiny, "--data.manifest", str(manifest / "manifest.jsonl")]


@pytest.fixture(scope="module")
def trained(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an adapter and nothing else."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    assert train_stage_a([*words, "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_an_adapter_is_judged_by_type_and_retention_set(
    words: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = sorted((path.name, path.read_bytes()) for path in (run_dir / "stage_a" / "adapter").iterdir())
    assert evaluate([*words, "--run_dir", str(run_dir)]) == 0
    told = json.loads((run_dir / "evaluate.json").read_text())
    assert (told["split"], told["questions"], told["policies"]) == ("test", 8, None)
    assert told["gate_zero"] == {"bit_exact": True, "questions": 4}
    assert set(told["types"]) == {"colour", "which_sound"}
    assert told["retention_sets"]["tiny-vl"] == told["types"]["colour"] == told["retention"]
    assert {"drop", "harm"} <= told["retention"].keys()
    assert "drop" not in told["audio"]
    assert told["audio"]["gate_1"]["mean"] - told["audio"]["gate_0"]["mean"] == pytest.approx(
        told["audio"]["gain"]["mean"]
    )
    out = capsys.readouterr().out
    assert "gate 0 is the base to the bit" in out
    assert "set tiny-vl" in out
    assert not (run_dir / "diagnostics").exists()
    assert adapter == sorted((path.name, path.read_bytes()) for path in (run_dir / "stage_a" / "adapter").iterdir())
    run = json.loads((run_dir / "run.json").read_text())
    assert (run["verb"], run["config_file"]) == ("evaluate", "config-evaluate.yaml")
    assert run["finished"]
    assert "adapter" in run["hashes"]


def test_diagnostics_write_json_tables_and_one_picture_each(
    words: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([*words, "--run_dir", str(run_dir), "--diagnostics", "--evaluate.gates", "[0,0.5,1]"]) == 0
    folder = run_dir / "diagnostics"
    assert sorted(path.stem for path in folder.glob("*.png")) == DIAGNOSTICS
    assert sorted(path.stem for path in folder.glob("*.csv")) == sorted([*DIAGNOSTICS, "training"])
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # something is drawn
    told = json.loads((folder / "diagnostics.json").read_text())
    assert [row["gate"] for row in told["gate_sweep"]] == [0, 0.5, 1]
    assert told["gate_sweep"][0]["drop"] == {"mean": 0, "low": 0, "high": 0}
    assert told["monitors"][0]["condition"] == "healthy"
    assert [row["step"] for row in told["training"]] == [1, 2, 3, 4]
    with open(folder / "monitors.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 6
    assert {row["monitor"] for row in rows if row["condition"] == "isolation removed" and row["fires"] == "True"} >= {
        "isolation"
    }
    assert "Monitors, isolation removed: isolation" in capsys.readouterr().out


def test_trained_policies_are_reported(words: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_outcomes([*words, "--run_dir", str(run_dir)]) == 0
    assert train_policy([*words, "--run_dir", str(run_dir)]) == 0
    metrics = json.loads((run_dir / "metrics.json").read_text())
    capsys.readouterr()
    assert evaluate([*words, "--run_dir", str(run_dir)]) == 0
    policies = json.loads((run_dir / "evaluate.json").read_text())["policies"]
    for name in ("accuracy", "usage", "drop"):
        assert policies["ppo_lagrangian"][name] == metrics["policies"]["ppo_lagrangian"][name]
    assert "PPO-Lagrangian" in capsys.readouterr().out
    assert json.loads((run_dir / "metrics.json").read_text()) == metrics  # what training said stays


def test_a_table_of_another_adapter_is_refused_before_anything_is_asked(
    words: list[str], run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_outcomes([*words, "--run_dir", str(run_dir)]) == 0
    assert train_policy([*words, "--run_dir", str(run_dir)]) == 0
    header = run_dir / "table" / "table.json"
    described = json.loads(header.read_text())
    own = described["provenance"]["model"]["adapter"]
    other = tmp_path / "other"
    for made, told in (
        ({"adapter": "ab" * 32}, rf"adapter abababababab there, {own[:12]} here"),
        (
            {"base": "cd" * 32, "adapter": "ab" * 32},
            r"base cdcdcdcdcdcd there, \w{12} here, adapter ab",
        ),
        (None, r"base unknown there, \w{12} here, encoder unknown there, \w{12} here, adapter unknown there"),
    ):
        changed = json.loads(json.dumps(described))
        changed["provenance"]["model"] = made and changed["provenance"]["model"] | made
        shutil.copytree(run_dir / "table", other, dirs_exist_ok=True)
        (other / "table.json").write_text(json.dumps(changed))
        capsys.readouterr()
        assert evaluate([*words, "--run_dir", str(run_dir), "--table", str(other)]) == 1
        error = capsys.readouterr().err
        assert re.search(rf"{other} was made with another model \({told}[^\n]*\); give the table of this", error)
        assert not (run_dir / "evaluate.json").exists()
    capsys.readouterr()
    assert evaluate([*words, "--run_dir", str(run_dir), "--table", str(run_dir / "table")]) == 0


def test_a_run_without_an_adapter_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([*words, "--run_dir", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert "has no trained adapter; train it first with `python -m safe_rl.train_stage_a --run_dir" in error
    assert not (tmp_path / "nothing").exists()


def test_an_adapter_of_another_configuration_is_refused(
    words: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([*words, "--run_dir", str(run_dir), "--stage_a.steps", "5"]) == 1
    assert "made with another configuration (stage_a.steps 4 there, 5 here)" in capsys.readouterr().err


def test_too_few_questions_for_a_diagnosis_are_refused(
    words: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([*words, "--run_dir", str(run_dir), "--diagnostics", "--evaluate.questions", "4"]) == 2
    assert "evaluate.questions must be at least 8, got 4" in capsys.readouterr().err


def test_figures_match_those_computed_by_hand() -> None:
    outcomes = Outcomes(
        base=np.array([1.0, 1, 0, 0, 1]),
        heard=np.array([0.0, 1, 1, 1, 1]),
        retention_sets=["a", "a", "b", None, None],
        types=["x", "x", "y", "z", "z"],
        groups=["g0", "g1", "g2", "g3", "g4"],
    )
    told = report(outcomes, seed=0)
    assert told["all"]["gain"]["mean"] == pytest.approx(1 / 5)
    assert (told["audio"]["gate_0"]["mean"], told["audio"]["gate_1"]["mean"]) == (0.5, 1.0)
    assert told["retention"]["drop"]["mean"] == pytest.approx(0)  # one lost, one won
    assert told["retention"]["harm"]["mean"] == pytest.approx(1 / 3)
    assert told["retention_sets"]["a"]["drop"]["mean"] == pytest.approx(0.5)
    assert told["retention_sets"]["b"]["drop"]["mean"] == pytest.approx(-1)
    assert told["types"]["z"]["questions"] == 2


def test_an_interval_covers_its_mean_and_resamples_groups() -> None:
    values, everything = np.array([0.0, 1.0] * 50), np.ones(100, dtype=bool)
    apart = Means([str(i) for i in range(100)], 0)(values, everything)
    assert apart["low"] < 0.5 < apart["high"]
    together = Means([str(i % 2) for i in range(100)], 0)(values, everything)  # two groups, of zeros and of ones
    assert (together["low"], together["high"]) == (0.0, 1.0)
    assert Means([str(i // 2) for i in range(100)], 0)(values, everything)["low"] == pytest.approx(0.5)


def test_an_adapter_of_elsewhere_has_no_course_of_training(tmp_path: Path) -> None:
    assert training_of(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "loss": 1.0}\n{"step": 2, "ki')
    assert training_of(tmp_path / "metrics.jsonl") == []


def test_inserted_tokens_have_no_table_of_attention() -> None:
    figures = {
        "gate_sweep": [{"gate": 0.0, "drop": {"mean": 0.0, "low": 0.0, "high": 0.0}}],
        "delta_logits": {},
        "cka": {"audio": {"prompt": [1.0, None]}},
        "alignment": {"vision": None, "text": {"nearest_per_token": [0.5], "nearest_words": [{"rain": 2}]}},
        "monitors": [],
        "attention": [],
        "training": [],
    }
    tables = tables_of(figures)
    assert "attention" not in tables
    assert "residual" not in tables
    assert tables["gate_sweep"] == [{"gate": 0.0, "drop_mean": 0.0, "drop_low": 0.0, "drop_high": 0.0}]
    assert tables["cka"][1] == {"kind": "audio", "positions": "prompt", "layer": 1, "cka": None}
