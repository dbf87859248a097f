"""Policies on disk: table, configuration and seed go in, a trained policy comes out; what is finished is reused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.config import AgentConfig
from safe_rl.artefact import Artefact, claim, refuse_stranger
from safe_rl.config import RunConfig
from safe_rl.determinism import prepare
from safe_rl.options import to_dict
from supervised.errors import ConfigError, TableError
from supervised.files import sha256_file

if TYPE_CHECKING:
    from agents.gate_policy import GatePolicy
    from agents.outcome_model import OutcomeModel
    from envs.outcomes import OutcomeTable

Record = Callable[[int, dict[str, float]], None]
"""Takes the step and the figures of a rollout."""

NEEDED = {"train": "to learn from", "validation": "to choose a policy by", "test": "to judge it on"}
"""Splits without which a policy cannot be trained and judged."""
MATTERS = {
    "ppo": ("agent", "ppo", "smoothing", "lagrangian", "curriculum", "reward", "total_timesteps"),
    "exact": ("agent", "exact", "smoothing", "lagrangian", "reward"),
}
"""Agent -> keys that change what its policy learns, beside table and seed."""


def check_policies(folder: Path, config: RunConfig) -> None:
    """Refuse, before anything long begins, a folder of policies that another configuration made.

    Raises:
        ConfigError: names the first keys that differ.
    """
    refuse_stranger(
        folder,
        _origin(config) | given_table(config),
        ConfigError,
        may_grow=("seeds",),
        resume=config.resume,
        remedy=_remedy(config),
    )


def claim_policies(folder: Path, config: RunConfig, table: OutcomeTable) -> Artefact:
    """Open the folder of a run's policies; only their number may grow, and only when the run is resumed.

    Raises:
        ConfigError: the folder holds policies of another table or configuration.
    """
    origin = _origin(config) | {"table_sha256": table.fingerprint}
    return claim(folder, origin, ConfigError, may_grow=("seeds",), resume=config.resume, remedy=_remedy(config))


def _remedy(config: RunConfig) -> str:
    table = config.table if config.table is not None else Path(config.run_dir) / "table"
    return f"give another --run_dir; --table {table} spares it the building"


def given_table(config: RunConfig) -> dict[str, str]:
    """Return what names the table that the configuration gives; nothing where the run builds its own."""
    header = Path(config.table or "") / "table.json"
    return {"table_sha256": sha256_file(header)} if config.table is not None and header.is_file() else {}


def check_splits(table: OutcomeTable) -> None:
    """Refuse a table that lacks a split that every policy needs.

    Raises:
        TableError: names the split and what it is for.
    """
    for name, purpose in NEEDED.items():
        if not table.splits[name]:
            there = ", ".join(f"{split} {count}" for split, count in table.splits.items())
            raise TableError(
                f"The table in {table.directory} has no {name} rows, which are needed {purpose} (rows: {there}); "
                f"give some rows the split {name}."
            )


def short_curriculum(config: RunConfig) -> str | None:
    """Return one line if no rollout begins at the final alpha, so that the multiplier never moves; else None."""
    rollout = config.ppo.num_envs * config.ppo.n_steps
    if config.agent != "ppo" or (config.total_timesteps - 1) // rollout * rollout >= config.curriculum.steps:
        return None
    return (
        f"alpha still grew when training ended, and the multiplier waits until it is final: curriculum.steps is "
        f"{config.curriculum.steps}, total_timesteps {config.total_timesteps}; give e.g. "
        f"--curriculum.steps {config.total_timesteps // 5}."
    )


def unconstrained(config: RunConfig, table: OutcomeTable) -> str | None:
    """Return one line if no train row belongs to a retention set, so that no limit holds; None: one does, or is off."""
    if config.lagrangian.maximum == 0 or (table.split("train").retention_set >= 0).any():
        return None
    return (
        f"the table in {table.directory} has no retention questions to learn from, so lagrangian.limit holds nothing; "
        f"give some rows a retention set, or switch the constraints off with --lagrangian.maximum 0."
    )


def divided_groups(table: OutcomeTable) -> str | None:
    """Return one line if a group has rows in two splits, so that what is measured was partly learned; else None."""
    if (found := table.shared_group()) is None:
        return None
    group, *splits = found
    return (
        f"group {group} of the table in {table.directory} has rows in {' and '.join(splits)}; questions of one group "
        f"are not independent, so figures look better than they are and no certificate holds: put every group into "
        f"one split."
    )


def what_matters(config: RunConfig) -> dict[str, Any]:
    """Return the part of the configuration that changes what a policy learns."""
    return {name: to_dict(getattr(config, name)) for name in MATTERS[config.agent]}


def agent_config(config: RunConfig) -> AgentConfig:
    """Return what makes one agent of the run."""
    return AgentConfig(
        agent=config.agent,
        ppo=config.ppo,
        exact=config.exact,
        smoothing=config.smoothing,
        lagrangian=config.lagrangian,
        curriculum=config.curriculum,
        reward=config.reward,
        total_timesteps=config.total_timesteps,
    )


def steps_of(config: RunConfig) -> int:
    """Return the steps of one agent's training."""
    return config.total_timesteps if config.agent == "ppo" else config.exact.steps


def outcome_model(table: OutcomeTable, config: RunConfig) -> OutcomeModel | None:
    """Return the model of the train rows' outcomes that all agents of the run can share; None where there is none."""
    from agents.outcome_model import OutcomeModel
    from envs.batch import OutcomeBatches

    if config.smoothing.trees == 0:
        return None
    rows = table.split("train").sample(config.smoothing.max_rows)
    return OutcomeModel(OutcomeBatches(rows, config.reward), config.smoothing)


def _origin(config: RunConfig) -> dict[str, Any]:
    return what_matters(config) | {"seeds": config.seeds}


def trained(
    table: OutcomeTable,
    config: RunConfig,
    seed: int,
    folder: Path,
    record: Record | None = None,
    model: Callable[[], OutcomeModel | None] | None = None,
) -> tuple[GatePolicy, dict[str, Any]]:
    """Return the policy of one seed and what is known about it; train it, or go on training it, if it is not there.

    Args:
        table: train rows to learn from, validation rows to choose by.
        config: of the run; `reward.alpha` is the final alpha.
        seed: of the policy.
        folder: of this policy, with the checkpoint of an unfinished one below it.
        record: called after every rollout.
        model: gives that of `outcome_model`, where several policies share it; None: it is fitted here.
    """
    from agents.gate_policy import load_policy, provenance_of, save_policy
    from agents.train import train_agent

    if finished(folder):
        return load_policy(folder), provenance_of(folder)
    prepare(seed, threads=1)  # the network is so small that a second thread would only wait
    agent = train_agent(
        table.split("train"),
        table.split("validation"),
        agent_config(config),
        seed,
        checkpoints=folder / "checkpoint",
        resume=True,
        progress=record,
        outcome_model=model() if model is not None else None,
    )
    told = {
        "seed": seed,
        "alpha": config.reward.alpha,
        "table_sha256": table.fingerprint,
        "selected": to_dict(agent.selected),
        "warning": agent.warning,
    }
    save_policy(folder, agent.policy, told)
    return agent.policy, told


def finished(folder: Path) -> bool:
    """Whether the policy of a folder is trained; its description is written last."""
    return (folder / "policy.json").is_file()


def steps_done(folder: Path) -> int:
    """Return the step of a folder's checkpoint, 0 without one: where training will go on."""
    try:
        return int(json.loads((folder / "checkpoint" / "checkpoint.json").read_text(encoding="utf-8"))["num_timesteps"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0  # a damaged checkpoint is reported, with its remedy, by whoever loads it
