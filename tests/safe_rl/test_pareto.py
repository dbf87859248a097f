"""A sweep over the price of latency: one row per alpha and policy, a picture, and cells that are trained once."""

from __future__ import annotations

import csv
import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from safe_rl.config import RunConfig
from safe_rl.pareto import main
from safe_rl.sweep import _by_workers, warnings_of
from supervised.errors import SafeError

QUICK = "--total_timesteps 4000 --ppo.num_envs 500 --ppo.batch_size 250 --curriculum.steps 500".split()


def options(table: Path, run_dir: Path, alphas: str, *more: str) -> list[str]:
    return ["--table", str(table), "--run_dir", str(run_dir), *QUICK, "--pareto.alphas", alphas, *more]


@pytest.fixture(scope="module")
def run_dir(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two alphas and two seeds, trained in this process."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(options(table, folder, "[2, 0]", "--pareto.seeds", "2", "--pareto.workers", "1")) == 0
    return folder


def rows(run_dir: Path, place: str = "pareto") -> list[dict[str, str]]:
    with open(run_dir / place / "pareto.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_row_per_alpha_and_policy(run_dir: Path) -> None:
    found = rows(run_dir)
    assert [row["alpha"] for row in found] == ["0.0"] * 8 + ["2.0"] * 8
    assert {row["policy"] for row in found} >= {"ppo_lagrangian", "always", "never", "oracle", "certified"}
    for row in found:
        assert float(row["accuracy_low"]) <= float(row["accuracy_mean"]) <= float(row["accuracy_high"])


def test_a_higher_price_buys_less_latency(run_dir: Path) -> None:
    usage = {(row["alpha"], row["policy"]): float(row["usage_mean"]) for row in rows(run_dir)}
    assert usage["2.0", "ppo_lagrangian"] < usage["0.0", "ppo_lagrangian"]
    assert usage["2.0", "oracle"] <= usage["0.0", "oracle"]
    assert usage["2.0", "always"] == usage["0.0", "always"] == 1.0


def test_the_picture_and_the_figures_lie_in_the_run_folder(run_dir: Path) -> None:
    with Image.open(run_dir / "pareto" / "pareto.png") as picture:
        assert picture.format == "PNG"
    page = (run_dir / "pareto" / "pareto.html").read_text(encoding="utf-8")
    assert "PPO-Lagrangian, alpha 2" in page
    metrics = json.loads((run_dir / "pareto" / "metrics.json").read_text())
    assert [point["alpha"] for point in metrics["points"]] == [0.0, 2.0]
    assert json.loads((run_dir / "run.json").read_text())["verb"] == "pareto"


def test_finished_cells_are_kept_when_alphas_are_added(run_dir: Path, table: Path) -> None:
    cells = sorted(run_dir.glob("pareto/alpha-*/seed-*/policy.safetensors"))
    before = [path.stat().st_mtime_ns for path in cells]
    assert len(before) == 4
    assert main(options(table, run_dir, "[0, 1, 2]", "--pareto.seeds", "1", "--pareto.workers", "1")) == 0
    assert [path.stat().st_mtime_ns for path in cells] == before
    assert {row["alpha"] for row in rows(run_dir)} == {"0.0", "1.0", "2.0"}


def test_the_exact_agent_trains_a_network_per_seed_and_again_for_a_higher_price(table: Path, tmp_path: Path) -> None:
    run, made = tmp_path / "run", []
    for alphas in ("[0, 2]", "[0, 1, 2]", "[2.5]"):
        argv = options(table, run, alphas, "--agent", "exact", "--pareto.seeds", "1", "--pareto.workers", "1")
        assert main([*argv, "--smoothing.trees", "5", "--exact.steps", "300"]) == 0
        made.append((run / "pareto_exact" / "networks" / "seed-0" / "network.safetensors").stat().st_mtime_ns)
        usage = [float(row["usage_mean"]) for row in rows(run, "pareto_exact") if row["policy"] == "exact_gradient"]
        assert usage == sorted(usage, reverse=True)
        assert len(usage) == len(json.loads(alphas))
    assert made[0] == made[1] < made[2]
    certificate = json.loads((run / "pareto_exact" / "alpha-1" / "seed-0" / "certificate.json").read_text())
    assert certificate["alpha"] == 1.0


def test_a_damaged_sweep_of_the_other_agent_is_left_out_with_a_line(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "pareto" / "metrics.json"
    other.parent.mkdir()
    other.write_text('{"points": [')
    argv = options(table, tmp_path, "[1]", "--agent", "exact", "--pareto.seeds", "1", "--pareto.workers", "1")
    assert main([*argv, "--smoothing.trees", "0", "--exact.steps", "20"]) == 0
    assert f"warning: {other} is damaged, so its curve is not drawn; run pareto --agent ppo" in capsys.readouterr().err


def test_all_policies_of_a_seed_come_from_one_network(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    place = run / "pareto_exact"
    quick = "--agent exact --pareto.seeds 1 --pareto.workers 1 --smoothing.trees 5 --exact.steps 300".split()

    def sweep(alphas: str) -> tuple[str, dict[str, str]]:
        assert main(options(table, run, alphas, *quick)) == 0
        network = json.loads((place / "networks" / "seed-0" / "network.json").read_text())["sha256"]
        cells = {path.parts[-3]: json.loads(path.read_text()) for path in place.glob("alpha-*/seed-0/policy.json")}
        return network, {name: cell["provenance"]["network_sha256"] for name, cell in cells.items()}

    first, solved = sweep("[0, 1]")
    assert solved == {"alpha-0": first, "alpha-1": first}
    second, solved = sweep("[0, 2.5]")  # beyond the first network's reach
    assert second != first
    assert solved == {"alpha-0": second, "alpha-1": first, "alpha-2.5": second}
    kept = (place / "alpha-0" / "seed-0" / "policy.json").stat().st_mtime_ns
    third, solved = sweep("[0, 1]")  # alpha 1 was not part of the second sweep
    assert third == second
    assert solved == dict.fromkeys(("alpha-0", "alpha-1", "alpha-2.5"), second)
    assert (place / "alpha-0" / "seed-0" / "policy.json").stat().st_mtime_ns == kept
    (place / "networks" / "seed-0" / "network.json").unlink()  # as a kill leaves it while a network is written
    again, solved = sweep("[0, 1]")
    assert again != second
    assert (solved["alpha-0"], solved["alpha-1"]) == (again, again)
    (place / "networks" / "seed-0" / "network.json").write_text("{")
    assert main(options(table, run, "[0, 1]", *quick)) == 1


def test_a_sweep_of_another_configuration_is_refused(
    run_dir: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(table, run_dir, "[0]", "--reward.gamma", "0.5")) == 2
    assert "(reward.gamma 0.1 there, 0.5 here); give another --run_dir." in capsys.readouterr().err


@pytest.mark.slow
def test_workers_train_the_same_policies_as_one_process(run_dir: Path, table: Path, tmp_path: Path) -> None:
    assert main(options(table, tmp_path / "run", "[0, 2]", "--pareto.seeds", "1", "--pareto.workers", "2")) == 0
    for name in ("alpha-0/seed-0", "alpha-2/seed-0"):
        cell = Path("pareto") / name / "policy.safetensors"
        assert (tmp_path / "run" / cell).read_bytes() == (run_dir / cell).read_bytes()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_in_one_line(table: Path, tmp_path: Path) -> None:
    config = RunConfig(total_timesteps=10_000_000)
    jobs = [[((alpha, 0), tmp_path / f"alpha-{alpha:g}")] for alpha in (0.0, 1.0)]
    killer = threading.Timer(2.0, lambda: multiprocessing.active_children()[0].kill())
    killer.start()
    with pytest.raises(SafeError, match=r"killed \(signal 9\).*give --pareto\.workers 1"):
        _by_workers(table, config, jobs, 2, lambda: None)
    assert not multiprocessing.active_children()


def test_warnings_of_cells_name_alpha_and_seed(tmp_path: Path) -> None:
    cells = {(0.5, seed): tmp_path / f"seed-{seed}" for seed in (0, 1)}
    for (_, seed), folder in cells.items():
        folder.mkdir()
        told = {"provenance": {"warning": "The limit is not met." if seed else None}}
        (folder / "policy.json").write_text(json.dumps(told))
    assert list(warnings_of(cells)) == ["alpha 0.5, seed 1: The limit is not met."]


@pytest.mark.slow
def test_trouble_in_a_worker_is_told_in_one_line(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = options(table, tmp_path / "run", "[0, 2]", "--pareto.seeds", "1", "--lagrangian.limit", "[0.1, 0.2]")
    assert main(argv) != 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "lagrangian.limit must be one number or 1" in told


@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_a_constraint_that_no_validation_row_measures_is_refused(
    make_table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], agent: str
) -> None:
    table = make_table(tmp_path / "table", retained=["train", "calibration", "test"])
    one = ["--pareto.seeds", "1", "--pareto.workers", "1", "--agent", agent]
    assert main(options(table, tmp_path / "run", "[0]", *one)) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no validation row that measures it" in told
