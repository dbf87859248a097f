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

ROWS = {"train": 12_000, "validation": 6_000, "test": 1_000}
LEAST = {"ppo": 0.93, "exact": 0.95}
"""Share of what the best policy within the limit gains over never using audio."""
SLACK = 0.003

PROBLEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one constraint": ({"seed": 26}, {}),
    "three constraints": ({"seed": 106, "constraints": 3}, {}),
    "useless features and noise": ({"seed": 200, "noise": 0.2}, {"useless": 150}),
}


@pytest.fixture(scope="module", params=list(PROBLEMS))
def known(request: pytest.FixtureRequest, known_table: Callable[..., KnownTable]) -> tuple[KnownTable, OutcomeModel]:
    problem, table = PROBLEMS[request.param]
    known = known_table(random_problem(**problem), ROWS, **{"useless": 32, "spread": 0.3, **table})
    config = AgentConfig()
    return known, OutcomeModel(OutcomeBatches(known.table.split("train"), config.reward), config.smoothing)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_most_of_the_optimal_gain_is_reached_within_the_limit(
    known: tuple[KnownTable, OutcomeModel], agent: Any
) -> None:
    drawn, model = known
    config = AgentConfig(agent=agent)
    table, limits = drawn.table, np.full(drawn.problem.n_sets, config.lagrangian.limit)
    trained = train_agent(table.split("train"), table.split("validation"), config, 0, outcome_model=model)
    chosen = np.eye(2)[trained.policy.decide(table.split("test").observation(slice(None)))]
    utility, drop = drawn.judge("test", chosen, config.reward)
    best = drawn.problem.optimum(limits, config.reward)
    assert utility - best.never >= LEAST[agent] * (best.utility - best.never)
    assert (drop <= limits + SLACK).all()
