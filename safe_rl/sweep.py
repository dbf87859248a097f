"""The cells of a sweep: one policy per alpha and seed, trained by a few worker processes; finished cells are reused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_rl.artefact import claim, refuse_stranger
from safe_rl.command import Advice
from safe_rl.config import RunConfig
from safe_rl.determinism import prepare
from safe_rl.training import agent_config, finished, given_table, outcome_model, trained, what_matters
from safe_rl.workers import Tell, run_workers
from supervised.errors import CheckpointError, ConfigError, SafeError, TableError
from supervised.files import sha256_file

if TYPE_CHECKING:
    from agents.certificates.certificate import Certificate
    from agents.outcome_model import OutcomeModel
    from envs.outcomes import OutcomeTable

WORKERS = Advice(memory="fewer --pareto.workers, or a smaller --smoothing.max_rows")
"""What a worker of a sweep tells to do; the table is there by then."""
Cell = tuple[float, int]
"""Alpha and seed."""
Job = list[tuple[Cell, Path]]
"""Cells, with their folders, that one worker makes together."""


def check_cells(place: Path, config: RunConfig) -> None:
    """Refuse, before anything long begins, a sweep that another configuration made.

    Raises:
        ConfigError: names the first keys that differ.
    """
    refuse_stranger(place, _origin(config) | given_table(config), ConfigError)


def claim_cells(place: Path, config: RunConfig, table: OutcomeTable) -> None:
    """Open the folder of a sweep; alphas and seeds may be added at any time.

    Raises:
        ConfigError: the sweep is of another table or configuration.
    """
    claim(place, _origin(config) | {"table_sha256": table.fingerprint}, ConfigError)


def train_cells(table: OutcomeTable, config: RunConfig, place: Path) -> dict[Cell, Path]:
    """Return the folder of every cell; what is not finished is trained, `pareto.workers` cells at once.

    All policies that the exact agent has for a seed come from one network: where it is trained again, for a higher
    alpha, the others are solved again by it.

    Raises:
        CheckpointError: the description of a network is damaged.
        SafeError: a worker met something that a user can mend, or was killed.
        RuntimeError: a worker died of a mistake of ours; its traceback is on stderr.
    """
    from tqdm import tqdm

    cells = {
        (alpha, seed): place / f"alpha-{alpha:g}" / f"seed-{seed}"
        for seed in range(config.pareto.seeds)
        for alpha in config.pareto.alphas
    }
    if config.agent == "exact":
        jobs = [job for _, group in groupby(cells.items(), _seed_of) if (job := _unsolved(list(group)))]
    else:
        jobs = [[(cell, folder)] for cell, folder in cells.items() if not finished(folder)]
    missing = sum(map(len, jobs))
    workers = min(config.pareto.workers, len(jobs))
    with tqdm(total=len(cells), initial=len(cells) - missing, desc="pareto", unit="policy", disable=None) as bar:
        if workers <= 1:
            for _ in _in_turn(table, config, jobs):
                bar.update()
        else:
            _by_workers(table.directory, config, jobs, workers, bar.update)
    return cells


def certify_cells(
    table: OutcomeTable, config: RunConfig, cells: dict[Cell, Path]
) -> tuple[dict[Cell, Certificate], str | None]:
    """Return a certificate for every cell, written beside its policy, or none, and one line that says why."""
    from agents.certificates.certificate import save_certificate
    from agents.certificates.certifier import Certifier

    limits = config.certify.limits(len(table.retention_sets), config.lagrangian)
    try:
        certifier = Certifier(table, config.certify, limits, config.reward)
        made = certifier.certify_all(list(cells.values()), [alpha for alpha, _ in cells])
    except TableError as error:
        return {}, f"no certificates: {error}"
    for folder, certificate in made.items():
        save_certificate(folder, certificate)
    return {cell: made[folder] for cell, folder in cells.items()}, None


def warnings_of(cells: dict[Cell, Path]) -> Iterator[str]:
    """Yield the warning of every trained cell that has one."""
    from agents.gate_policy import provenance_of

    for (alpha, seed), folder in cells.items():
        if warning := provenance_of(folder).get("warning"):
            yield f"alpha {alpha:g}, seed {seed}: {warning}"


def _seed_of(each: tuple[Cell, Path]) -> int:
    return each[0][1]


def _unsolved(cells: Job) -> Job:
    """Return the cells of one seed that are not policies of its network; all, if that does not go far enough."""
    found = _network(_network_of(cells))
    if found is None or found[0] < max(alpha for (alpha, _), _ in cells):
        return cells
    return [(cell, folder) for cell, folder in cells if not finished(folder) or _solved_by(folder) != found[1]]


def _network_of(cells: Job) -> Path:
    """Return the folder of the network of a seed, which answers for every alpha."""
    (_, seed), folder = cells[0]
    return folder.parent.parent / "networks" / f"seed-{seed}"


def _network(place: Path) -> tuple[float, str] | None:
    """Return the highest alpha of a network, and its hash; None: there is none. Its weights, and torch, stay unread."""
    path = place / "network.json"
    if not path.is_file():
        return None
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return float(description["prices"]["alpha"]), str(description["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged; delete {place} to train the network again.") from error


def _solved_by(folder: Path) -> str | None:
    """Return the hash of the network that a finished policy comes from; None: it is not told, so it is solved again."""
    from agents.gate_policy import provenance_of

    try:
        return str(provenance_of(folder)["network_sha256"])
    except (KeyError, CheckpointError):
        return None


def _in_turn(table: OutcomeTable, config: RunConfig, jobs: list[Job]) -> Iterator[None]:
    """Do jobs one after the other, on one model of the outcomes, and yield once per finished cell."""
    model = cache(partial(outcome_model, table, config))
    for job in jobs:
        if config.agent == "exact":
            yield from _solve(table, config, job, model())
            continue
        for (alpha, seed), folder in job:
            trained(table, replace(config, reward=replace(config.reward, alpha=alpha)), seed, folder, model=model)
            yield


def _solve(table: OutcomeTable, config: RunConfig, job: Job, model: OutcomeModel | None) -> Iterator[None]:
    """Write the policies of one seed; a network is trained for all prices, unless there is one that goes far enough."""
    from agents.conditioned import TENSORS, ConditionedPolicy, Prices
    from agents.gate_policy import save_policy
    from agents.task import task_of

    seed = _seed_of(job[0])
    prepare(seed, threads=1)
    task = task_of(table.split("train"), table.split("validation"), agent_config(config), seed, model)
    place = _network_of(job)
    highest = max(alpha for (alpha, _), _ in job)
    found = _network(place)
    if found is not None and found[0] >= highest:
        policy = ConditionedPolicy.load(place, task)
    else:
        policy = ConditionedPolicy(task, Prices(max(highest, Prices.alpha), max(config.reward.gamma, Prices.gamma)))
        policy.train()
        policy.save(place)
    origin = {"seed": seed, "table_sha256": table.fingerprint, "network_sha256": sha256_file(place / TENSORS)}
    for (alpha, _), folder in job:
        gate, multipliers = policy.solve(alpha, config.reward.gamma)
        told = {"alpha": alpha, "multipliers": multipliers.tolist(), "warning": _warning(multipliers, config)}
        save_policy(folder, gate, origin | told)
        yield


def _warning(multipliers: np.ndarray, config: RunConfig) -> str | None:
    """Return one line if a multiplier stands at its maximum, so that its limit could not be met; else None."""
    if config.lagrangian.maximum == 0 or not np.any(multipliers >= config.lagrangian.maximum):
        return None
    return (
        f"The limit on the cost is not met even at the largest multiplier, {config.lagrangian.maximum:g}; raise "
        f"lagrangian.limit or lagrangian.maximum."
    )


def _by_workers(table: Path, config: RunConfig, jobs: list[Job], workers: int, finished: Tell) -> None:
    """Share the jobs out; `finished` is called once per finished cell.

    Raises:
        SafeError: a worker was killed, or met something that a user can mend.
    """

    def killed(number: int) -> None:
        raise SafeError(
            f"A worker of the sweep was killed (signal {number}), perhaps for want of memory; give --pareto.workers 1, "
            f"what is finished is kept."
        )

    # Jobs take equally long, so fixed shares are fair, and a worker imports torch only once.
    works = [partial(_work, table, config, jobs[first::workers]) for first in range(workers)]
    run_workers(works, finished, killed, config.run_dir, WORKERS)


def _work(table: Path, config: RunConfig, jobs: list[Job], finished: Tell) -> None:
    """Do jobs one after the other, in a process of its own."""
    import torch

    from envs.outcomes import OutcomeTable

    torch.set_num_threads(1)
    for _ in _in_turn(OutcomeTable.open(table), config, jobs):
        finished()


def _origin(config: RunConfig) -> dict[str, Any]:
    """Return what makes a cell what it is, beside alpha and seed."""
    origin = what_matters(config)
    del origin["reward"]["alpha"]
    return origin
