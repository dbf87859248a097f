from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.conditioned import ConditionedPolicy, Prices
from agents.config import AgentConfig, CurriculumConfig, ExactConfig, PPOConfig, SmoothingConfig
from agents.divergence import Diverged, check_figures, check_layers, run_of, sampling
from agents.task import task_of
from agents.train import train_agent
from envs.outcomes import OutcomeTable

CONFIG = AgentConfig(
    ppo=PPOConfig(num_envs=200, batch_size=100, hidden=(16,), learning_rate=1e20),
    exact=ExactConfig(hidden=(16,), steps=40, batch_size=200, judgements=4, learning_rate=1e30),
    smoothing=SmoothingConfig(trees=0),
    curriculum=CurriculumConfig(steps=0),
    total_timesteps=2_000,
    checkpoint_every=1,
)


@pytest.mark.parametrize("agent", ["ppo", "exact"])
def test_a_learning_rate_that_is_far_too_large_is_told_and_nothing_ships(
    table: OutcomeTable, tmp_path: Path, agent: Any
) -> None:
    config = dataclasses.replace(CONFIG, agent=agent)
    with pytest.raises(Diverged, match=rf"^Training diverged, seed 3: .*; lower {agent}\.learning_rate\.$") as error:
        train_agent(table.split("train"), table.split("validation"), config, 3, checkpoints=tmp_path)
    assert "\n" not in str(error.value)
    assert error.value.reason.startswith("seed 3: ")


def test_a_network_for_every_price_that_diverges_is_told(table: OutcomeTable) -> None:
    task = task_of(table.split("train"), table.split("validation"), dataclasses.replace(CONFIG, agent="exact"), 1)
    with pytest.raises(
        Diverged, match=r"seed 1: the policy is no longer finite after 40 steps; lower exact\.learning_rate"
    ):
        ConditionedPolicy(task, Prices()).train()


@pytest.mark.parametrize("name", ["train/loss", "validation/utility", "lagrange/multiplier_1", "tune/utility"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_named(name: str, value: float) -> None:
    with pytest.raises(Diverged) as error:
        check_figures({"step": 300.0, "alpha": 0.5, name: value})
    assert error.value.reason == f"{name} is {value} after 300 steps"
    check_figures({"step": 300.0, name: 0.5})


def test_layers_with_a_number_that_is_not_finite_are_refused() -> None:
    good = (np.zeros((2, 2)), np.zeros(2))
    check_layers([good, good], 7)
    with pytest.raises(Diverged, match=r"the policy is no longer finite after 7 steps; lower learning_rate\.$"):
        check_layers([good, (np.zeros((2, 2)), np.array([0.0, np.inf]))], 7)


def test_weights_that_are_no_numbers_are_told_from_mistakes() -> None:
    with pytest.raises(Diverged, match="the policy is no longer finite after 3 steps"), sampling(3):
        torch.multinomial(torch.tensor([float("nan"), 1.0]), 1)
    with pytest.raises(RuntimeError, match="shape"), sampling(3):
        raise RuntimeError("shape mismatch")
    with pytest.raises(ValueError, match="nan"), sampling(3):
        float("a nan that is none")


def test_whose_training_it_was_is_told_with_what_happened() -> None:
    with (
        pytest.raises(Diverged, match=r"^Training diverged, seed 3: it did; lower ppo\.learning_rate\.$"),
        run_of(3, "ppo"),
    ):
        raise Diverged("it did")
