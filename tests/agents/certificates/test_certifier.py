"""From a table and a policy's folder to a certificate that says where everything comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.certificates.bounds import upper_bound
from agents.certificates.certificate import NEVER, Certificate, gate_actions
from agents.certificates.certified_threshold import threshold_grid
from agents.certificates.certifier import Certifier, carries_audio, gate_zero
from agents.config import CertifyConfig, LagrangianConfig
from agents.gate_policy import GatePolicy, load_policy, save_policy
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.normaliser import ObservationNormaliser
from envs.outcomes import OutcomeTable
from envs.table_format import Header
from envs.table_writer import TableWriter
from supervised.errors import CheckpointError, TableError

ROWS = {0: 300, 1: 400, 2: 2000, 3: 200}


@pytest.fixture(scope="module")
def certified_table(make_table: Callable[..., OutcomeTable]) -> OutcomeTable:
    return make_table(ROWS)


def save_gate(
    directory: Path, table: OutcomeTable, provenance: dict[str, Any] | None = None, preferred: int = 1
) -> Path:
    """A gate that listens where the question looks as if it needed it, but for noise."""
    normaliser = ObservationNormaliser.fit(table.split("train"))
    weight = np.zeros((len(table.actions), sum(normaliser.widths.values())))
    weight[preferred, 0], weight[preferred, 4] = -2.0, 1.0  # the first column of question, and of image, which is noise
    policy = GatePolicy(normaliser, [(weight, np.zeros(len(table.actions)))], table.actions)
    save_policy(directory, policy, provenance)
    return directory


@pytest.fixture
def folder(tmp_path: Path, certified_table: OutcomeTable) -> Path:
    return save_gate(tmp_path / "gate", certified_table, {"table_sha256": certified_table.fingerprint})


def certify(table: OutcomeTable, folder: Path, limit: float = 0.1, **config: Any) -> Certificate:
    return Certifier(table, CertifyConfig(**config), [limit], RewardConfig()).certify(folder)


def test_the_certificate_tells_what_the_gate_does_on_the_rows_drawn(
    certified_table: OutcomeTable, folder: Path
) -> None:
    certificate = certify(certified_table, folder)
    rows = OutcomeBatches(certified_table.split("calibration"), RewardConfig())
    probabilities = load_policy(folder).probabilities(rows.split.observation(slice(None)))
    actions = gate_actions(probabilities, certificate.threshold)
    assert certificate.usage == (actions > 0).mean()
    assert certificate.utility == pytest.approx(rows.reward[np.arange(2000), actions].mean(dtype=float))
    assert certificate.utility > certificate.utility_never + 0.05
    found = certificate.sets[0]
    assert (found.name, found.limit, found.rows) == ("vl", 0.1, int((rows.split.retention_set == 0).sum()))
    assert found.n == len(np.unique(rows.split.group[rows.split.retention_set == 0])) < found.rows
    assert found.bound == upper_bound(found.k, found.n, 0.05) <= 0.1
    assert 0 < found.k
    assert certificate.split == "calibration"
    assert certificate.rows == 2000
    assert certificate.table_sha256 == certified_table.fingerprint
    for name, sha in certificate.policy_sha256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha


def test_the_same_seed_draws_the_same_rows_and_another_seed_others(certified_table: OutcomeTable, folder: Path) -> None:
    assert certify(certified_table, folder) == certify(certified_table, folder)
    assert certify(certified_table, folder).drawn_sha256 != certify(certified_table, folder, seed=1).drawn_sha256


def test_the_grid_is_laid_by_the_validation_rows(certified_table: OutcomeTable, folder: Path) -> None:
    chances = load_policy(folder).use_probability(certified_table.split("validation").observation(slice(None)))
    grid = threshold_grid(chances, 1000)
    certificate = certify(certified_table, folder)
    assert certificate.thresholds_tried == len(grid)
    assert {certificate.threshold, certificate.wanted} <= set(grid.tolist())
    assert certify(certified_table, folder, grid=7).thresholds_tried == 9


@pytest.mark.parametrize("method", ["harm", "usage", "drop"])
def test_every_method_keeps_its_own_promise(certified_table: OutcomeTable, folder: Path, method: str) -> None:
    certificate = certify(certified_table, folder, 0.1, method=method)
    assert certificate.method == method
    assert certificate.threshold != NEVER
    assert certificate.sets[0].observed < certificate.sets[0].bound <= 0.1
    assert certify(certified_table, folder, 0.0, method=method).threshold == NEVER


def test_gate_zero_is_taken_from_the_tables_provenance(certified_table: OutcomeTable, tmp_path: Path) -> None:
    assert gate_zero(certified_table) == {"bit_exact": None, "samples": None, "base_sha256": None}
    told = {"gate_zero_bit_exact": True, "gate_zero_samples": 64, "model": {"base": "abc"}}
    table = rewritten(certified_table, tmp_path / "told", told)
    assert gate_zero(table) == {"bit_exact": True, "samples": 64, "base_sha256": "abc"}
    assert certify(table, save_gate(tmp_path / "gate", table)).gate_zero["samples"] == 64


def rewritten(table: OutcomeTable, directory: Path, provenance: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A copy of a table with other columns or another header."""
    rows = np.arange(len(table))
    names = [name for name, width in table.widths.items() if width]
    columns = ["score", "latency_ms", "retention_set", "group", "split"]
    tensors = {name: table.gather(name, rows) for name in (*names, *columns)} | changes.get("tensors", {})
    header = Header(
        changes.get("actions", table.actions),
        table.widths,
        changes.get("sets", table.retention_sets),
        provenance=provenance or {},
    )
    writer = TableWriter(directory, header)
    writer.write_part(tensors, [table.record(int(row)) | changes.get("record", {}) for row in rows], len(rows))
    writer.finish()
    return OutcomeTable.open(directory)


def test_a_policy_of_another_table_is_refused(
    certified_table: OutcomeTable, folder: Path, make_table: Callable[..., OutcomeTable]
) -> None:
    other = make_table({0: 100, 1: 100, 2: 300, 3: 100})
    with pytest.raises(CheckpointError, match=r"learned from another table .*give the table of the run with --table"):
        certify(other, folder)


def widened(table: OutcomeTable, directory: Path, columns: list[int]) -> OutcomeTable:
    """A table of two budgets, each with the outcomes of an action of the narrow one."""
    rows = np.arange(len(table))
    tensors = {name: table.gather(name, rows)[:, [0, *columns]] for name in ("score", "latency_ms")}
    actions, record = ("skip", "use_4", "use_8"), {"predictions": ["a", "b", "c"]}
    return rewritten(table, directory, actions=actions, tensors=tensors, record=record)


def test_a_policy_of_other_actions_is_refused(certified_table: OutcomeTable, folder: Path, tmp_path: Path) -> None:
    wider = widened(certified_table, tmp_path / "wider", [1, 1])
    with pytest.raises(CheckpointError, match=r"decides between skip, use, the table in .* between skip, use_4, use_8"):
        certify(wider, folder)


@pytest.mark.parametrize("preferred", [1, 2])
def test_of_several_budgets_the_one_that_the_gate_would_take_is_tested(
    certified_table: OutcomeTable, tmp_path: Path, preferred: int
) -> None:
    """Budget 8 does what audio does, budget 4 only takes as long: without harm, and without gain."""
    wider = widened(certified_table, tmp_path / "wider", [1, 1])
    wider.parts[0] = dict(wider.parts[0]) | {"score": wider.parts[0]["score"][:, [0, 0, 2]]}
    gate = save_gate(tmp_path / "gate", wider, preferred=preferred)
    certificate = certify(wider, gate)
    harmed = certificate.sets[0].wanted_observed + certificate.sets[0].observed
    assert (harmed > 0) == (preferred == 2)
    assert (certificate.utility > certificate.utility_never) == (preferred == 2)


def test_each_set_has_its_limit_and_its_evidence(certified_table: OutcomeTable, folder: Path, tmp_path: Path) -> None:
    sets = certified_table.gather("retention_set", np.arange(len(certified_table)))
    sets = np.where(sets == 0, np.arange(len(sets)) % 2, -1).astype(np.int16)
    table = rewritten(certified_table, tmp_path / "two", sets=("even", "odd"), tensors={"retention_set": sets})
    gate = save_gate(tmp_path / "gate", table)
    limits = CertifyConfig(limit=(0.1, 0.2)).limits(2, LagrangianConfig())
    certificate = Certifier(table, CertifyConfig(), limits, RewardConfig()).certify(gate)
    assert [(found.name, found.limit) for found in certificate.sets] == [("even", 0.1), ("odd", 0.2)]
    assert all(found.bound <= found.limit for found in certificate.sets)


def test_rows_that_take_no_longer_and_score_the_same_carry_no_audio(
    certified_table: OutcomeTable, tmp_path: Path
) -> None:
    n = len(certified_table)
    latency, score = (certified_table.gather(name, np.arange(n)) for name in ("latency_ms", "score"))
    silent = np.arange(n) % 4 == 0
    latency[silent] = latency[silent, :1]
    score[silent] = score[silent, :1]
    table = rewritten(certified_table, tmp_path / "silent", tensors={"latency_ms": latency, "score": score})
    rows = table.split("calibration")
    assert np.array_equal(carries_audio(rows), ~silent[rows.rows])
    found = certify(table, save_gate(tmp_path / "gate", table)).sets[0]
    assert found.without_audio == int((silent[rows.rows] & (rows.retention_set == 0)).sum()) > 0
    # An equal latency alone is no proof: what harms is listened to.
    noisy = score.copy()
    noisy[silent] = [1.0, 0.0]
    table = rewritten(certified_table, tmp_path / "noisy", tensors={"latency_ms": latency, "score": noisy})
    assert carries_audio(table.split("calibration")).all()
    # A table without latencies does not tell.
    flat = np.repeat(latency[:, :1], 2, axis=1)
    table = rewritten(certified_table, tmp_path / "flat", tensors={"latency_ms": flat, "score": score})
    assert carries_audio(table.split("calibration")).all()


@pytest.mark.parametrize(
    ("rows", "retention", "message"),
    [
        ({0: 50, 1: 50, 3: 50}, True, r"has no calibration rows, which are needed to certify on .*split calibration"),
        ({0: 50, 2: 50, 3: 50}, True, r"has no validation rows, which are needed to lay the grid"),
        (
            {0: 50, 1: 50, 2: 50},
            False,
            r"has no retention questions with audio among its 50 calibration rows, so there",
        ),
    ],
)
def test_a_table_on_which_nothing_can_be_certified_is_refused(
    rows: dict[int, int], retention: bool, message: str, make_table: Callable[..., OutcomeTable]
) -> None:
    table = make_table(rows, retention=retention)
    with pytest.raises(TableError, match=message) as caught:
        Certifier(table, CertifyConfig(), [0.003] * len(table.retention_sets), RewardConfig())
    assert "\n" not in str(caught.value)


def test_a_set_that_no_calibration_row_measures_is_named(certified_table: OutcomeTable, tmp_path: Path) -> None:
    table = rewritten(certified_table, tmp_path / "three", sets=("vl", "vqav2", "gqa"))
    with pytest.raises(
        TableError, match="has no calibration row with audio of vqav2, gqa, so nothing can be certified"
    ):
        Certifier(table, CertifyConfig(), [0.003] * 3, RewardConfig())


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"method": "hope"}, "certify.method must be one of harm, usage, drop, got 'hope'"),
    ({"delta": 0.0}, "certify.delta must be between 0 and 1, neither included, got 0.0"),
    ({"delta": 1.0}, "certify.delta must be between 0 and 1, neither included, got 1.0"),
    ({"limit": -0.1}, "certify.limit must be a number >= 0, a list of them, or null, got -0.1"),
    ({"limit": ()}, r"certify.limit must be a number or a list of at least one, got \[\]"),
    ({"limit": (0.1, float("nan"))}, "certify.limit must be .* got nan"),
    ({"grid": 0}, "certify.grid must be a whole number of at least 1, got 0"),
    ({"seed": -1}, "certify.seed must be a whole number >= 0, got -1"),
]


@pytest.mark.parametrize(("values", "message"), BAD_CONFIGS)
def test_a_promise_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CertifyConfig(**values)


def test_limits_are_those_of_training_unless_given() -> None:
    training = LagrangianConfig(limit=(0.01, 0.02))
    assert CertifyConfig().limits(2, training) == [0.01, 0.02]
    assert CertifyConfig(limit=0.5).limits(2, training) == [0.5, 0.5]
    assert CertifyConfig(limit=(0.1, 0.2)).limits(2, training) == [0.1, 0.2]
    with pytest.raises(ValueError, match=r"certify.limit must be one number or 3 \(one per constraint\), got 2"):
        CertifyConfig(limit=(0.1, 0.2)).limits(3, training)
    with pytest.raises(ValueError, match=r"lagrangian.limit must be one number or 3"):
        CertifyConfig().limits(3, training)


def test_the_file_is_plain_json(certified_table: OutcomeTable, folder: Path) -> None:
    value = certify(certified_table, folder).as_json()
    assert json.loads(json.dumps(value, allow_nan=False))["sets"][0]["name"] == "vl"
