from __future__ import annotations

import numpy as np
import pytest
import torch

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
    reward = np.array([[0.0, 1.0], [0.5, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    cost = np.zeros((4, 1, 2), dtype=np.float32)
    cost[:2, 0, 1] = 1.0
    return FeasibleBest(np.zeros((4, 1), np.float32), reward, cost, np.array([0.3]), margin)


def test_decisions_are_judged_as_computed_by_hand() -> None:
    judgement = _selection(0.0).judge(7, np.array([1, 0, 0, 1]))
    assert (judgement.step, judgement.utility, judgement.usage, judgement.cost) == (7, 0.625, 0.5, [0.25])
    assert judgement.excess == pytest.approx(-0.05)
    assert judgement.feasible


def test_the_margin_adds_standard_errors_to_the_cost() -> None:
    judgement = _selection(1.0).judge(0, np.array([1, 0, 0, 1]))
    # Costs 1, 0, 0, 0: deviation sqrt(3) / 4, over sqrt(4) rows.
    assert judgement.excess == pytest.approx(-0.05)
    assert judgement.bound == pytest.approx(0.25 + np.sqrt(3) / 8 - 0.3)
    assert judgement.feasible
    assert not judgement.better_than(_judgement(-1.0, -0.01))


class _Policy:
    """Stands for a network: fixed probabilities and one weight."""

    def __init__(self, actions: list[int], weight: float) -> None:
        self.actions, self.weight = actions, torch.tensor([weight])

    def probabilities(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(self.actions), 2).float()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}


def test_the_best_feasible_snapshot_is_kept_as_a_copy_and_survives_a_state_dict() -> None:
    selection = _selection(0.0)
    best = _Policy([1, 0, 0, 1], 1.0)
    for step, policy in enumerate([_Policy([1, 1, 0, 1], 0.0), best, _Policy([0, 0, 0, 1], 2.0)]):
        selection.consider(step, policy)  # type: ignore[arg-type]
    best.weight.fill_(9.0)
    restored = _selection(0.0)
    restored.load_state_dict(*selection.state_dict())
    assert restored.best is not None
    assert restored.best.step == 1
    assert restored.weights["weight"].item() == 1.0
