from __future__ import annotations

from math import log

import pytest
import torch

from supervised.diagnostics.delta_logits import by_kind, delta_logits, divergence, quantile


def test_figures_match_those_computed_by_hand() -> None:
    base, fused = torch.zeros(1, 2), torch.tensor([[log(3), 0.0]])
    figures = delta_logits(base, fused)
    assert figures["mean"] == pytest.approx(log(3) / 2)
    assert figures["max"] == figures["p95"] == pytest.approx(log(3))
    # 1/2 log((1/2) / (3/4)) + 1/2 log((1/2) / (1/4)) = 1/2 log(4/3)
    assert figures["kl"] == pytest.approx(0.5 * log(4 / 3))
    assert figures["changed"] == 0  # of two equal logits the first wins


def test_the_divergence_is_that_of_the_base_from_the_fused() -> None:
    base, fused = torch.tensor([[0.0, 0.0]]), torch.tensor([[50.0, 0.0]])
    assert float(divergence(base, fused)) == pytest.approx(25 - log(2))  # the other way round it would be log 2
    assert float(divergence(fused, base)) == pytest.approx(log(2))


def test_a_changed_first_token_counts() -> None:
    base, fused = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    assert delta_logits(base, fused)["changed"] == 0.5


def test_every_kind_has_its_own_figures() -> None:
    base, fused = torch.zeros(3, 4), torch.tensor([[0.0] * 4, [1.0] * 4, [3.0] * 4])
    figures = by_kind(base, fused, ["b", "a", "a"])
    assert list(figures) == ["a", "b"]
    assert (figures["a"]["mean"], figures["a"]["questions"], figures["b"]["max"]) == (2.0, 2.0, 0.0)
    assert figures["a"]["kl"] == pytest.approx(0, abs=1e-6)  # all logits moved by the same


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.75, 3), (0.95, 4), (1.0, 4)])
def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed(share: float, expected: float) -> None:
    assert quantile(torch.tensor([3.0, 1.0, 4.0, 2.0]), share) == expected
