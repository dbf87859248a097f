from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from supervised.attention import attend
from supervised.config import FusionConfig
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.lora import LowRank
from supervised.fusion.parts import Listeners, Sound


def _learned(width: int = 6, rank: int = 2, alpha: float = 3.0) -> LowRank:
    torch.manual_seed(0)
    low_rank = LowRank(width, rank, alpha)
    nn.init.normal_(low_rank.up.weight)
    return low_rank


def test_the_deviation_by_hand() -> None:
    low_rank = LowRank(2, rank=1, alpha=3.0)
    low_rank.down.weight.data = torch.tensor([[1.0, 2.0]])
    low_rank.up.weight.data = torch.tensor([[10.0], [-1.0]])
    # A x = 1 + 2 * 2 = 5; alpha / r = 3; x + 3 * (50, -5).
    assert low_rank(torch.tensor([1.0, 2.0])).tolist() == [151.0, -13.0]


def test_alpha_counts_in_units_of_the_rank() -> None:
    low_rank, x = _learned(rank=2, alpha=3.0), torch.randn(4, 6)
    deviation = low_rank(x) - x
    torch.testing.assert_close(deviation, 1.5 * x @ low_rank.down.weight.T @ low_rank.up.weight.T)


def test_it_is_the_identity_at_first_bit_for_bit_and_b_learns() -> None:
    low_rank, x = LowRank(6, 2, 16.0), torch.randn(3, 6)
    assert torch.equal(low_rank(x), x)
    low_rank(x).square().sum().backward()
    assert low_rank.up.weight.grad is not None
    assert low_rank.up.weight.grad.ne(0).all()


def test_a_is_drawn_as_peft_draws_it() -> None:
    torch.manual_seed(0)
    weight = LowRank(10_000, 4, 16.0).down.weight
    # Kaiming's uniform distribution with a = sqrt 5: within +-1 / sqrt D, standard deviation 1 / sqrt(3 D).
    assert weight.abs().max().item() == pytest.approx(0.01, rel=1e-3)
    assert weight.abs().max().item() <= 0.01
    assert weight.std().item() == pytest.approx(0.01 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("query_norm", [True, False])
def test_it_equals_frozen_identity_matrices_with_deviations_beside_them(query_norm: bool) -> None:
    """As LoRA is usually written: W x + (alpha / r) B A x, W the identity, also for keys and output."""
    torch.manual_seed(1)
    config = FusionConfig(heads=2, lora_rank=4, lora_alpha=8.0, query_norm=query_norm)
    fusion, eye = CrossAttentionFusion(config, 32, 0.5), torch.eye(32)
    for part in (fusion.query, fusion.value):
        assert isinstance(part, LowRank)
        nn.init.normal_(part.up.weight, std=0.1)
    listeners = Listeners(torch.randn(2, 7, 32), 0.5, torch.ones(2, 7, dtype=torch.bool))
    sound = Sound(torch.randn(2, 5, 32), torch.tensor([[True] * 5, [True, True, False, True, False]]))

    def mapped(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(part, LowRank)
        return x @ eye.T + 8.0 / 4 * (x @ part.down.weight.T @ part.up.weight.T)

    hidden = listeners.hidden / 0.5 if fusion.query_norm is None else fusion.query_norm(listeners.hidden)
    heard = sound.tokens / 0.5
    query, value = mapped(fusion.query, hidden), mapped(fusion.value, heard)
    expected = attend(query, heard @ eye.T, value, sound.mask, heads=2) @ eye.T
    torch.testing.assert_close(fusion.context(listeners, sound), expected, rtol=1e-6, atol=1e-6)
