from __future__ import annotations

import torch

from supervised.config import FusionConfig
from supervised.fusion.block import BlockFusion
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.parts import Listeners, Sound, capped

SOUND = Sound(torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2, 4, dtype=torch.bool))


def _block() -> BlockFusion:
    torch.manual_seed(0)
    return BlockFusion(FusionConfig(kind="block", heads=2), 8, 1.0)


def _listeners(unit: float = 1.0) -> Listeners:
    hidden = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    return Listeners(hidden, unit, torch.ones(2, 3, dtype=torch.bool))


def test_it_starts_as_the_plain_cross_attention() -> None:
    plain = CrossAttentionFusion(FusionConfig(kind="cross_attention", heads=2), 8, 1.0)
    assert torch.equal(_block()(_listeners(), SOUND), plain(_listeners(), SOUND))


def test_the_feed_forward_is_four_times_as_wide_and_sees_stream_and_context() -> None:
    block, listeners = _block(), _listeners(unit=2.0)
    torch.nn.init.normal_(block.contract.weight)
    assert list(block.expand.weight.shape) == [32, 8]
    context = block.attention.context(listeners, SOUND)
    inner = torch.nn.functional.gelu(block.expand(block.norm(listeners.hidden / 2 + context)))
    expected = capped(context + inner @ block.contract.weight.T)
    torch.testing.assert_close(block(listeners, SOUND), expected)


def test_the_residual_is_at_most_one_unit() -> None:
    block = _block()
    torch.nn.init.normal_(block.contract.weight, std=100.0)
    assert 0.9 < block(_listeners(), SOUND).square().mean(-1).sqrt().max().item() <= 1.001


def test_everything_in_it_is_trained() -> None:
    assert all(parameter.requires_grad for parameter in _block().parameters())
