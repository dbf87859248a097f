from __future__ import annotations

import pytest
import torch

from supervised.config import ProjectorConfig
from supervised.errors import ConfigError
from supervised.projectors.adaptive import AdaptiveProjector
from supervised.projectors.load import new_projector

EVERYTHING = torch.ones(3, 7, dtype=torch.bool)


def _projector(tokens: int = 32, layers: int = 2) -> AdaptiveProjector:
    torch.manual_seed(0)
    config = ProjectorConfig(kind="adaptive", tokens=tokens, layers=layers)
    projector = new_projector(config, token_dim=6, width=10, embedding_rms=0.25)
    assert isinstance(projector, AdaptiveProjector)
    return projector


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_at_first_every_token_is_open_on_every_clip(layers: int) -> None:
    projector = _projector(layers=layers)
    spoken, gates = projector.gated(torch.randn(3, 7, 6), EVERYTHING)
    assert spoken.shape == (3, 32, 10)
    assert gates.tolist() == [[2.0] * 32] * 3
    assert torch.allclose(spoken.square().mean(-1).sqrt(), torch.tensor(0.25), rtol=1e-4)


def test_a_gate_looks_at_what_its_token_saw_of_the_clip() -> None:
    projector, tokens = _projector(4), torch.randn(3, 7, 6)
    torch.nn.init.normal_(projector.gate)
    projector.openness.data = torch.tensor([0.0, 1.0, 2.0, 3.0])
    _, gates = projector.gated(tokens, EVERYTHING)
    slots = projector.mlp.slots(tokens, EVERYTHING)
    assert gates[1, 2].item() == pytest.approx((slots[1, 2] @ projector.gate).item() + 2, rel=1e-5)


def test_closed_tokens_are_zero_and_open_ones_those_of_the_mlp() -> None:
    projector, tokens = _projector(4), torch.randn(3, 7, 6)
    projector.openness.data = torch.tensor([1.0, 0.0, -1.0, 1e-3])
    spoken = projector(tokens, EVERYTHING)
    assert not spoken[:, 1:3].any()
    assert torch.equal(spoken[:, [0, 3]], projector.mlp(tokens, EVERYTHING)[:, [0, 3]])


def test_padding_has_no_say_in_the_gates() -> None:
    projector, tokens = _projector(4), torch.randn(1, 7, 6)
    torch.nn.init.normal_(projector.gate)
    mask, other = torch.tensor([[True] * 5 + [False] * 2]), tokens.clone()
    other[:, 5:] = 1e3
    assert torch.equal(projector.gated(tokens, mask)[1], projector.gated(other, mask)[1])


def test_a_budget_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"a budget of 4 tokens was given, but the adaptive projector chooses .*; leave"
    ):
        _projector()(torch.randn(3, 7, 6), EVERYTHING, 4)
