from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from supervised.config import ProjectorConfig
from supervised.projectors.load import new_projector
from supervised.projectors.resampler import ResamplerProjector


def _projector(tokens: int = 8, layers: int = 2) -> ResamplerProjector:
    torch.manual_seed(0)
    config = ProjectorConfig(kind="resampler", tokens=tokens, layers=layers, bottleneck=12, heads=3)
    projector = new_projector(config, token_dim=6, width=10, embedding_rms=0.25)
    assert isinstance(projector, ResamplerProjector)
    return projector


@pytest.mark.parametrize("count", [4, 8, 12, 16])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_k_tokens_of_the_bases_width_and_size(count: int, layers: int) -> None:
    projector = _projector(count, layers)
    spoken = projector(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))
    assert len(projector.blocks) == layers
    assert spoken.shape == (3, count, 10)
    assert torch.allclose(spoken.square().mean(-1).sqrt(), torch.tensor(0.25), rtol=1e-4)


def test_a_block_adds_attention_and_feed_forward_behind_tanh_gates() -> None:
    block: Any = _projector(layers=1).blocks[0]
    latents, frames, mask = torch.randn(2, 4, 12), torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        whole = block(latents, frames, mask)
        block.feed_forward_gate.zero_()
        attention = block(latents, frames, mask) - latents
        block.attention_gate.fill_(1.0)
        louder = block(latents, frames, mask) - latents
        heard = latents + attention
        fed = whole - heard
    assert torch.allclose(louder, attention * math.tanh(1.0) / math.tanh(0.5), atol=1e-5)
    assert torch.allclose(fed, math.tanh(0.5) * block.feed_forward(heard), atol=1e-5)


def test_it_hears_from_the_first_step() -> None:
    projector, mask = _projector(), torch.ones(1, 7, dtype=torch.bool)
    first, second = projector(torch.randn(1, 7, 6), mask), projector(torch.randn(1, 7, 6), mask)
    assert (first - second).square().mean().sqrt() > 0.01 * 0.25


def test_masked_frames_have_no_influence() -> None:
    projector, tokens = _projector(), torch.randn(1, 7, 6)
    mask, other = torch.tensor([[True] * 5 + [False] * 2]), tokens.clone()
    other[:, 5:] = 1e3
    assert torch.equal(projector(tokens, mask), projector(other, mask))
    assert torch.allclose(projector(tokens, mask), projector(tokens[:, :5], mask[:, :5]), atol=1e-6)


def test_a_budget_gives_the_first_tokens_that_all_give() -> None:
    projector, tokens, mask = _projector(), torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool)
    every = projector(tokens, mask)
    for budget in (1, 4, 8):
        torch.testing.assert_close(projector(tokens, mask, budget), every[:, :budget], rtol=1e-5, atol=1e-6)
