from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.retention import RetentionBuffer
from agents.selection import FeasibleBest, Judgement


def _judgement(utility: float, excess: float) -> Judgement:
    return Judgement(step=0, utility=utility, cost=[0.0], excess=excess, bound=excess, usage=0.5)


def test_inside_the_bound_beats_outside_whatever_the_utility() -> None:
    assert _judgement(0.1, 0.0).better_than(_judgement(0.9, 0.01))
    assert not _judgement(0.9, 0.01).better_than(_judgement(0.1, 0.0))


def test_inside_the_bound_utility_counts_and_outside_of_it_cost() -> None:
    assert _judgement(0.9, -0.1).better_than(_judgement(0.8, -0.5))
    assert _judgement(0.1, 0.01).better_than(_judgement(0.9, 0.02))
    assert not _judgement(0.8, -0.1).better_than(_judgement(0.8, -0.5))  # a tie keeps the earlier one


def _selection(margin: float) -> FeasibleBest:
    """Four questions; on the first two USE costs 1, and the limit is 0.3."""
    reward = np.array([[0.0, 1.0], [0.5, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    cost = np.zeros((4, 1, 2), dtype=np.float32)
    cost[:2, 0, 1] = 1.0
    rows = np.arange(4, dtype=np.float32)[:, None]
    return FeasibleBest(rows, reward, RetentionBuffer(rows, cost, margin), np.array([0.3]))


class _Policy:
    """Stands for a network: a fixed action for the question of every number, and one weight."""

    def __init__(self, actions: list[int], weight: float = 0.0, sureness: float = 1.0) -> None:
        self.actions, self.weight, self.sureness = actions, torch.tensor([weight]), sureness

    def probabilities(self, observations: Any) -> torch.Tensor:
        use = torch.tensor(self.actions)[observations[:, 0].long()] == 1
        probability = torch.where(use, self.sureness, 1 - self.sureness)
        return torch.stack([1 - probability, probability], dim=1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}


def test_decisions_are_judged_as_computed_by_hand() -> None:
    judgement = _selection(0.0).consider(7, _Policy([1, 0, 0, 1]))
    assert (judgement.step, judgement.utility, judgement.usage, judgement.cost) == (7, 0.625, 0.5, [0.25])
    assert judgement.excess == judgement.bound == pytest.approx(-0.05)
    assert judgement.feasible


def test_the_most_probable_action_is_judged_not_the_expectation() -> None:
    selection = _selection(0.0)
    judgement = selection.consider(0, _Policy([1, 0, 0, 1], sureness=0.6))
    assert (judgement.utility, judgement.cost) == (0.625, [0.25])
    assert selection.actions.tolist() == [1, 0, 0, 1]


def test_the_margin_adds_standard_errors_to_the_cost() -> None:
    judgement = _selection(1.0).consider(0, _Policy([1, 0, 0, 1]))
    # Costs 1, 0, 0, 0: deviation sqrt(3) / 4, over sqrt(4) rows.
    assert judgement.excess == pytest.approx(-0.05)
    assert judgement.bound == pytest.approx(0.25 + np.sqrt(3) / 8 - 0.3)
    assert judgement.feasible
    assert not judgement.better_than(_judgement(-1.0, -0.01))


def test_the_worst_constraint_decides() -> None:
    rows, cost = np.arange(4, dtype=np.float32)[:, None], np.zeros((4, 3, 2), dtype=np.float32)
    cost[0, 0, 1], cost[1, 1, 1], cost[2, 2, 1] = 1.0, 2.0, -4.0
    limits = np.array([0.2, 0.1, 0.5])
    selection = FeasibleBest(rows, np.zeros((4, 2), np.float32), RetentionBuffer(rows, cost), limits)
    judgement = selection.consider(0, _Policy([1, 1, 1, 1]))
    assert judgement.cost == [0.25, 0.5, -1.0]
    assert judgement.excess == pytest.approx(0.4)  # 0.5 - 0.1
    assert not judgement.feasible


def test_without_constraints_every_policy_is_feasible() -> None:
    rows = np.arange(4, dtype=np.float32)[:, None]
    buffer = RetentionBuffer(rows, np.zeros((4, 0, 2), np.float32))
    judgement = FeasibleBest(rows, np.zeros((4, 2), np.float32), buffer, np.zeros(0)).consider(0, _Policy([1, 1, 1, 1]))
    assert (judgement.cost, judgement.excess, judgement.bound, judgement.feasible) == ([], -1.0, -1.0, True)


def test_the_best_feasible_snapshot_is_kept_as_a_copy_and_survives_a_state_dict() -> None:
    selection = _selection(0.0)
    best = _Policy([1, 0, 0, 1], 1.0)
    for step, policy in enumerate([_Policy([1, 1, 0, 1], 0.0), best, _Policy([0, 0, 0, 1], 2.0)]):
        selection.consider(step, policy)
    best.weight.fill_(9.0)
    restored = _selection(0.0)
    restored.load_state_dict(*selection.state_dict())
    assert restored.best is not None
    assert restored.best.step == 1
    assert restored.weights["weight"].item() == 1.0


def test_what_may_not_ship_is_judged_but_not_kept() -> None:
    selection = _selection(0.0)
    judgement = selection.consider(1, _Policy([1, 0, 0, 1], 1.0), ships=False)
    assert judgement == _selection(0.0).consider(1, _Policy([1, 0, 0, 1], 1.0))
    assert selection.best is None


def test_never_costs_nothing_and_earns_what_skipping_earns() -> None:
    selection = _selection(2.0)
    judgement, skipping = selection.never(7), selection.consider(7, _Policy([0, 0, 0, 0], 1.0))
    assert (judgement.utility, judgement.cost, judgement.usage) == (skipping.utility, [0.0], 0.0)
    assert (judgement.excess, judgement.bound) == pytest.approx((-0.3, -0.3))
