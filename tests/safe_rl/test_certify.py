"""The verb: certificates beside the policies of a run, figures on the test split, one line where it cannot go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from agents.certificates.certificate import CertifiedGate, load_certificate
from envs.outcomes import OutcomeTable
from safe_rl import train_policy
from safe_rl.certify import main
from supervised.files import sha256_file, write_tensors

QUICK = "--total_timesteps 4000 --seeds 2 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 500".split()
LOOSE = ["--certify.limit", "0.05"]
"""A limit that the few calibration questions of the small table can certify."""


@pytest.fixture(scope="module")
def big_table(make_table: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "table"
    return make_table(folder, rows=3000, shares=[0.3, 0.1, 0.4, 0.2], provenance={"gate_zero_bit_exact": True})


@pytest.fixture(scope="module")
def trained(big_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two policies, one of which is also there as a student."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    assert train_policy.main(["--table", str(big_table), "--run_dir", str(run_dir), *QUICK]) == 0
    shutil.copytree(run_dir / "policies" / "seed-1", run_dir / "distilled" / "seed-1")
    return run_dir


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def certify(run_dir: Path, table: Path, *more: str) -> int:
    return main(["--run_dir", str(run_dir), "--table", str(table), *more])


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert told.startswith("error: ")
    return told


def summary(run_dir: Path) -> Any:
    return json.loads((run_dir / "certify.json").read_text())


def test_every_policy_gets_a_certificate_that_its_gate_obeys(run_dir: Path, big_table: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.glob("*/seed-*/policy.*")}
    assert certify(run_dir, big_table, *LOOSE) == 0
    assert {path: path.read_bytes() for path in before} == before
    rows = OutcomeTable.open(big_table).split("test")
    lines = [json.loads(line) for line in (run_dir / "certified_decisions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == rows.ids.tolist()
    for seed in (0, 1):
        gate = CertifiedGate.load(run_dir / "policies" / f"seed-{seed}")
        assert gate.certificate.sets[0].bound <= gate.certificate.sets[0].limit == 0.05
        assert 0 < gate.certificate.usage
        actions = gate.decide(rows.observation(slice(None)))
        assert [line["action"][seed] for line in lines] == actions.tolist()
        told = summary(run_dir)["policies"]["seeds"][f"seed-{seed}"]
        assert told["certificate"] == json.loads(json.dumps(gate.certificate.as_json()))
        loss = rows.score[:, 0] - rows.score[np.arange(len(rows)), actions]
        own = loss[rows.retention_set == 0]
        assert told["test"]["usage"] == actions.mean()
        assert told["test"]["sets"]["synthetic-vl"] == {
            "n": len(own),
            "harmed": int((own > 0).sum()),
            "harm": pytest.approx((own > 0).mean()),
            "drop": pytest.approx(own.mean()),
        }
    chances = np.array([line["use_probability"] for line in lines])
    assert chances.shape == (len(rows), 2)
    assert np.all((chances >= 0) & (chances <= 1))


def test_the_summary_tells_the_promise_and_judges_on_the_test_split(run_dir: Path, big_table: Path) -> None:
    assert certify(run_dir, big_table, *LOOSE, "--certify.delta", "0.1") == 0
    told = summary(run_dir)
    assert (told["method"], told["confidence"], told["limits"]) == ("harm", 0.9, {"synthetic-vl": 0.05})
    assert set(told["policies"]["seeds"]) == {"seed-0", "seed-1"}
    figures = told["policies"]["test"]
    assert {"certified", "as_trained", "never"} <= set(figures)
    assert figures["never"]["usage"]["mean"] == 0.0
    assert figures["never"]["utility"]["mean"] < figures["certified"]["utility"]["mean"]
    seeds = [told["policies"]["seeds"][name]["test"] for name in ("seed-0", "seed-1")]
    for metric in ("usage", "utility"):
        assert figures["certified"][metric]["mean"] == pytest.approx(
            np.mean([seed[metric] for seed in seeds]), abs=1e-6
        )
    run = json.loads((run_dir / "run.json").read_text())
    assert run["verb"] == "certify"
    assert run["finished"]
    assert run["hashes"]["table"] == hashlib.sha256((big_table / "table.json").read_bytes()).hexdigest()


def test_students_are_certified_like_their_teachers(run_dir: Path, big_table: Path) -> None:
    assert certify(run_dir, big_table, *LOOSE) == 0
    student, teacher = (load_certificate(run_dir / family / "seed-1") for family in ("distilled", "policies"))
    assert student == teacher  # here they are the same policy
    assert set(summary(run_dir)["distilled"]["seeds"]) == {"seed-1"}
    line = json.loads((run_dir / "distilled" / "certified_decisions.jsonl").read_text().splitlines()[0])
    assert len(line["action"]) == 1


def test_training_results_stay_and_a_second_certificate_replaces_the_first(run_dir: Path, big_table: Path) -> None:
    kept = {name: (run_dir / name).read_bytes() for name in ("metrics.json", "decisions.jsonl")}
    assert certify(run_dir, big_table, *LOOSE) == 0
    assert certify(run_dir, big_table, "--certify.limit", "0.2", "--certify.method", "usage") == 0
    assert {name: (run_dir / name).read_bytes() for name in kept} == kept
    certificate = load_certificate(run_dir / "policies" / "seed-0")
    assert (certificate.method, certificate.sets[0].limit) == ("usage", 0.2)
    assert train_policy.main(["--table", str(big_table), "--run_dir", str(run_dir), *QUICK]) == 0  # nothing is damaged


def test_where_nothing_can_be_certified_never_ships_and_one_line_says_what_is_missing(
    run_dir: Path, big_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(run_dir, big_table, "--certify.limit", "0.001") == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = [line for line in told.out.splitlines() if line.startswith("seed-0 never uses audio")]
    certificate = load_certificate(run_dir / "policies" / "seed-0")
    n = certificate.sets[0].n
    assert len(lines) == 1
    assert "because no threshold can be certified with 95 % confidence" in lines[0]
    assert f"synthetic-vl has {n} calibration questions (one per group)" in lines[0]
    assert f"enough would be {2995 - n} more without a single harm" in lines[0]
    assert summary(run_dir)["policies"]["test"]["certified"]["usage"]["mean"] == 0.0
    assert json.loads((run_dir / "policies" / "seed-0" / "certificate.json").read_text())["threshold"] is None


def test_the_same_command_gives_the_same_files(run_dir: Path, big_table: Path) -> None:
    names = ["certify.json", "certified_decisions.jsonl", "policies/seed-0/certificate.json"]
    assert certify(run_dir, big_table, *LOOSE) == 0
    first = [(run_dir / name).read_bytes() for name in names]
    assert certify(run_dir, big_table, *LOOSE) == 0
    assert [(run_dir / name).read_bytes() for name in names] == first


def test_a_run_of_its_own_table_needs_no_option(run_dir: Path, big_table: Path) -> None:
    shutil.copytree(big_table, run_dir / "table")
    assert main(["--run_dir", str(run_dir), *LOOSE]) == 0


def test_another_reward_than_that_of_training_is_told(
    run_dir: Path, big_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(run_dir, big_table, *LOOSE, "--reward.alpha", "0.2") == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("warning: the policies were trained for another reward")
    assert "give --reward.alpha 0.6 to choose by theirs" in told
    assert load_certificate(run_dir / "policies" / "seed-0").alpha == 0.2


def test_a_group_in_two_splits_is_told(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = Path(shutil.copytree(table, tmp_path / "mixed"))
    part = mixed / "part-00000.safetensors"
    write_tensors(part, load_file(part) | {"group": np.zeros(1200, dtype=np.int64)})
    header = json.loads((mixed / "table.json").read_text())
    header["parts"][0]["sha256"] = sha256_file(part)
    (mixed / "table.json").write_text(json.dumps(header))
    quick = "--seeds 1 --agent exact --exact.steps 20 --exact.judgements 2 --smoothing.trees 0".split()
    told = f"warning: group 0 of the table in {mixed} has rows in train and validation; questions of one group are not"
    assert train_policy.main(["--table", str(mixed), "--run_dir", str(tmp_path / "run"), *quick]) == 0
    assert told in capsys.readouterr().err
    assert certify(tmp_path / "run", mixed) == 0
    assert told in capsys.readouterr().err


def test_a_base_that_gate_zero_changes_is_told(
    make_table: Callable[..., Path], run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(
        tmp_path / "t", rows=3000, shares=[0.3, 0.1, 0.4, 0.2], provenance={"gate_zero_bit_exact": False}
    )
    for place in [path.parent for path in run_dir.glob("*/seed-*/policy.json")]:
        claim_table(place, OutcomeTable.open(table).fingerprint)
    assert certify(run_dir, table, *LOOSE) == 0
    assert "warning: with gate 0 this model is not the base to the bit" in capsys.readouterr().err


def claim_table(policy: Path, fingerprint: str) -> None:
    description = json.loads((policy / "policy.json").read_text())
    description["provenance"]["table_sha256"] = fingerprint
    (policy / "policy.json").write_text(json.dumps(description))


def test_a_folder_without_policies_is_refused(
    big_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(tmp_path / "absent", big_table) == 2
    assert "has no trained policies; train them first with `python -m safe_rl.train_policy" in only_line(capsys)
    assert not (tmp_path / "absent").exists()


def test_a_run_without_a_table_of_its_own_asks_for_it(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run_dir", str(run_dir)]) == 2
    assert "has no table of its own; give the table of its policies with --table" in only_line(capsys)
    assert main(["--run_dir", str(run_dir), "--table", "absent"]) == 2
    assert "table: absent does not exist; give the folder of the table" in only_line(capsys)


def test_a_table_that_the_policies_did_not_learn_from_is_refused_and_nothing_is_written(
    run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / "run.json").read_bytes()
    assert certify(run_dir, table) == 1
    assert "learned from another table" in only_line(capsys)
    assert not list(run_dir.rglob("certificate.json"))
    assert not (run_dir / "certify.json").exists()
    assert (run_dir / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.4, 0.3, 0.0, 0.3], "has no calibration rows, which are needed to certify on"),
        ([0.4, 0.0, 0.3, 0.3], "has no validation rows, which are needed to lay the grid of thresholds"),
        ([0.4, 0.3, 0.3, 0.0], "has no test rows, which are needed to report on"),
    ],
)
def test_a_table_without_a_split_is_refused(
    shares: list[float],
    message: str,
    run_dir: Path,
    make_table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = make_table(tmp_path / "table", shares=shares)
    assert certify(run_dir, table) == 1
    assert message in only_line(capsys)


def test_a_damaged_policy_is_one_line(run_dir: Path, big_table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "policies" / "seed-1" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert certify(run_dir, big_table) == 1
    assert "policy.safetensors has a wrong checksum" in only_line(capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--certify.method", "hope"], "certify.method must be one of harm, usage, drop, got hope"),
        (["--certify.delta", "0"], "certify.delta must be between 0 and 1, neither included, got 0.0"),
        (["--certify.limit", "-1"], "certify.limit must be a number >= 0"),
        (["--certify.limit", "[0.1, 0.2]"], "certify.limit must be one number or 1 (one per constraint), got 2"),
        (["--certify.grid", "0"], "certify.grid must be a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(
    argv: list[str], message: str, run_dir: Path, big_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(run_dir, big_table, *argv) == 2
    assert message in only_line(capsys)
