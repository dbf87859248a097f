"""From a manifest and a tiny real model to a policy, in one command; what is there is reused, a stranger's refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_rl import build_outcomes, train_policy, train_stage_a
from safe_rl.artefact import folder_sha256
from safe_rl.config import RunConfig
from safe_rl.pipeline import trained_model
from supervised.config import ModelConfig
from supervised.safe_model import SafeModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def argv(manifest: Path, tiny: list[str]) -> list[str]:
    return [*tiny, "--data.manifest", str(manifest / "manifest.jsonl")]


@pytest.fixture(scope="module")
def run_dir(argv: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_policy.main([*argv, "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_one_command_builds_everything(run_dir: Path) -> None:
    assert (run_dir / "stage_a" / "adapter").is_dir()
    assert read(run_dir / "table" / "table.json")["provenance"]["gate_zero_bit_exact"] is True
    assert read(run_dir / "metrics.json")["gate_zero_bit_exact"] is True
    hashes = read(run_dir / "run.json")["hashes"]
    assert hashes["adapter"] == folder_sha256(run_dir / "stage_a" / "adapter")
    assert hashes["table"] == read(run_dir / "metrics.json")["table_sha256"]


def test_the_parts_make_the_same_as_the_whole(run_dir: Path, argv: list[str], tmp_path: Path) -> None:
    place = ["--run_dir", str(tmp_path / "run")]
    for verb in (train_stage_a, build_outcomes):
        assert verb.main([*argv, *place]) == 0
    assert folder_sha256(tmp_path / "run" / "stage_a" / "adapter") == folder_sha256(run_dir / "stage_a" / "adapter")
    assert [entry["verb"] for entry in read(tmp_path / "run" / "run.json")["earlier"]] == ["train_stage_a"]


def test_adapter_and_table_are_reused(copy: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "policies")
    assert train_policy.main([*argv, "--run_dir", str(copy), "--reward.alpha", "0.1"]) == 0
    assert "Stage A:" not in capsys.readouterr().out
    assert read(copy / "metrics.json")["alpha"] == 0.1


def test_speed_and_place_do_not_change_what_a_table_is(copy: Path, argv: list[str]) -> None:
    more = ["--outcomes.batch_size", "2", "--data.on_error", "skip"]
    assert build_outcomes.main([*argv, "--run_dir", str(copy), *more]) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--stage_a.steps", "5"], "stage_a was made with another configuration (stage_a.steps 4 there, 5 here)"),
        (["--model.trust_remote_code", "true"], "(model.trust_remote_code null there, true here)"),
        (["--data.hold_out", "1"], "stage_a was made with another configuration (data.hold_out"),
        (["--outcomes.preview", "clap"], "table was made with another configuration (outcomes.preview"),
    ],
)
def test_what_another_configuration_made_is_refused(
    copy: Path, argv: list[str], change: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "config.yaml").read_bytes()
    assert train_policy.main([*argv, "--run_dir", str(copy), *change]) == 1
    err = capsys.readouterr().err
    assert told in err
    assert f"; give another --run_dir, or this one's configuration with --config {copy / 'config.yaml'}.\n" in err
    assert (copy / "config.yaml").read_bytes() == before


def test_a_table_of_another_adapter_is_refused(copy: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "stage_a")
    assert train_stage_a.main([*argv, "--run_dir", str(copy), "--stage_a.steps", "6", "--stage_a.eval_every", "3"]) == 0
    capsys.readouterr()
    more = ["--stage_a.steps", "6", "--stage_a.eval_every", "3"]
    assert build_outcomes.main([*argv, "--run_dir", str(copy), *more]) == 1
    err = capsys.readouterr().err
    assert "table was made with another configuration (adapter_sha256" in err
    assert err.count("\n") == 1


def test_a_changed_adapter_is_refused(copy: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "stage_a" / "adapter" / "note.txt").write_text("changed")
    assert train_policy.main([*argv, "--run_dir", str(copy)]) == 1
    assert "was changed after Stage A finished; restore it, or delete" in capsys.readouterr().err


def test_a_changed_table_is_refused(copy: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    header = copy / "table" / "table.json"
    header.write_text(header.read_text() + " ")
    assert train_policy.main([*argv, "--run_dir", str(copy)]) == 1
    assert "was changed after it was built; restore it, or delete it" in capsys.readouterr().err


def test_other_data_under_the_same_name_are_refused(
    copy: Path, argv: list[str], damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (damaged / "manifest.jsonl").read_text().replace("which sound can you hear", "which sound is there")
    (damaged / "manifest.jsonl").write_text(lines)
    other = [*argv, "--data.manifest", str(damaged / "manifest.jsonl")]
    assert train_policy.main([*other, "--run_dir", str(copy)]) == 1
    assert "stage_a was made with another configuration (data.manifest" in capsys.readouterr().err


def test_budgets_of_the_table_are_those_of_stage_a_and_each_is_an_action(
    argv: list[str], run_dir: Path, tmp_path: Path
) -> None:
    assert build_outcomes.main([*argv, "--outcomes.budgets", "[2, 4, 8]", "--run_dir", str(tmp_path / "run")]) == 0
    header = read(tmp_path / "run" / "table" / "table.json")
    assert header["actions"] == ["skip", "use_2", "use_4", "use_8"]
    assert header["action_tokens"] == [0, 2, 4, 8]
    assert list(header["provenance"]["latency_profile"]["budget_ms"]) == ["2", "4", "8"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "stage_a" / "metrics.jsonl").read_text().splitlines()]
    assert {line["budget"] for line in lines if line["kind"] == "train"} <= {2, 4, 8}
    assert read(tmp_path / "run" / "stage_a" / "made_from.json")["made_from"]["stage_a"]["budgets"] == [2, 4, 8]
    for part in ("stage_a", "table"):  # runs of a time before there were budgets are still the same runs
        assert "budgets" not in json.dumps(read(run_dir / part / "made_from.json"))
        assert "trust_remote_code" not in json.dumps(read(run_dir / part / "made_from.json"))


def test_an_encoder_decoder_goes_the_whole_walk(argv: list[str], tiny_t5_dir: Path, tmp_path: Path) -> None:
    assert train_policy.main([*argv, "--model.base", str(tiny_t5_dir), "--run_dir", str(tmp_path / "run")]) == 0
    assert read(tmp_path / "run" / "metrics.json")["gate_zero_bit_exact"] is True


def test_a_trained_model_trusts_what_the_configuration_trusts(tiny_config: ModelConfig, tmp_path: Path) -> None:
    SafeModel.attach(tiny_config).save_pretrained(tmp_path)
    for trust, commit in ((False, None), (True, "b2")):
        model = replace(tiny_config, trust_remote_code=trust, base_revision=commit)
        loaded = trained_model(RunConfig(model=model), tmp_path).config
        assert (loaded.trust_remote_code, loaded.base_revision) == (trust, commit)


def test_budgets_above_the_projectors_tokens_are_refused_before_anything_begins(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_outcomes.main([*argv, "--outcomes.budgets", "[8, 16]", "--run_dir", str(tmp_path / "run")]) == 2
    assert (
        "outcomes.budgets has a budget of 16 audio tokens, but model.projector.tokens is 8" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_a_router_with_budgets_trains_without_what_only_the_base_pass_tells(argv: list[str], tmp_path: Path) -> None:
    options = ["--outcomes.cost_mode", "router", "--outcomes.budgets", "[2, 8]", "--run_dir", str(tmp_path / "run")]
    assert train_policy.main([*argv, *options]) == 0
    policy = read(tmp_path / "run" / "policies" / "seed-0" / "policy.json")
    assert policy["actions"] == ["skip", "use_2", "use_8"]
    assert sorted(policy["observation"]) == ["audio_preview", "image", "question"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "decisions.jsonl").read_text().splitlines()]
    assert {action for line in lines for action in line["action"]} <= {0, 1, 2}
