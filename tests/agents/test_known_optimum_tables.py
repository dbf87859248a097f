"""Both agents with their real defaults on tables whose best constrained policy is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agents.config import AgentConfig
from agents.outcome_model import OutcomeModel
from agents.train import train_agent
from envs.batch import OutcomeBatches
from envs.known_optimum import KnownTable, random_problem

ROWS = {"train": 24_000, "validation": 12_000, "test": 4_000}
LEAST = {"ppo": 0.93, "exact": 0.95}
"""Share of what the best policy within the limit gains over never using audio."""
SLACK = 0.003

PROBLEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one constraint": ({"seed": 26}, {}),
    "three constraints": ({"seed": 106, "constraints": 3}, {}),
    "useless features and noise": ({"seed": 200, "noise": 0.2}, {"useless": 150}),
}


@pytest.fixture(scope="module")
def drawn(known_table: Callable[..., KnownTable]) -> list[tuple[KnownTable, OutcomeModel]]:
    """Two tables of every problem: what one table says of a limit is partly luck."""
    config, found = AgentConfig(), []
    for problem, table in PROBLEMS.values():
        for seed in range(2):
            known = known_table(random_problem(**problem), ROWS, seed=seed, **{"useless": 32, "spread": 0.3, **table})
            rows = OutcomeBatches(known.table.split("train"), config.reward)
            found.append((known, OutcomeModel(rows, config.smoothing)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_most_of_the_optimal_gain_is_reached_within_the_limit(
    drawn: list[tuple[KnownTable, OutcomeModel]], agent: Any
) -> None:
    config, shares = AgentConfig(agent=agent), []
    for known, model in drawn:
        table, limits = known.table, np.full(known.problem.n_sets, config.lagrangian.limit)
        trained = train_agent(table.split("train"), table.split("validation"), config, 0, outcome_model=model)
        chosen = np.eye(2)[trained.policy.decide(table.split("test").observation(slice(None)))]
        utility, drop = known.judge("test", chosen, config.reward)
        best = known.problem.optimum(limits, config.reward)
        shares.append((utility - best.never) / (best.utility - best.never))
        assert (drop <= limits + SLACK).all()
    assert np.mean(shares) >= LEAST[agent]
