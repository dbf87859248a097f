from __future__ import annotations

import pytest
import torch

from supervised.config import ProjectorConfig, check_budgets
from supervised.errors import ConfigError
from supervised.projector import AudioProjector


def _projector(tokens: int = 8) -> AudioProjector:
    torch.manual_seed(0)
    return AudioProjector(ProjectorConfig(tokens=tokens), token_dim=6, width=10, embedding_rms=0.25)


@pytest.mark.parametrize("count", [4, 8, 12, 16])
def test_k_tokens_of_the_bases_width_and_size(count: int) -> None:
    spoken = _projector(count)(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))
    assert spoken.shape == (3, count, 10)
    assert torch.allclose(spoken.square().mean(-1).sqrt(), torch.tensor(0.25), rtol=1e-4)


def test_the_tokens_of_one_clip_differ() -> None:
    spoken = _projector()(torch.randn(1, 7, 6), torch.ones(1, 7, dtype=torch.bool))[0]
    assert torch.pdist(spoken).min() > 0.01


def test_masked_tokens_have_no_influence() -> None:
    projector, tokens = _projector(), torch.randn(1, 7, 6)
    mask = torch.tensor([[True] * 5 + [False] * 2])
    other = tokens.clone()
    other[:, 5:] = 1e3
    assert torch.equal(projector(tokens, mask), projector(other, mask))
    assert torch.allclose(projector(tokens, mask), projector(tokens[:, :5], mask[:, :5]), atol=1e-6)


def test_a_row_without_audio_is_finite_and_so_are_its_gradients() -> None:
    projector = _projector()
    projector(torch.zeros(1, 7, 6), torch.zeros(1, 7, dtype=torch.bool)).sum().backward()
    gradients = [parameter.grad for parameter in projector.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_other_numbers_of_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"projector\.tokens must be 4, 8, 12 or 16, got 5; use e\.g\. 8"):
        ProjectorConfig(tokens=5)
    with pytest.raises(ConfigError, match=r"projector\.hidden must be at least 1, got 0"):
        ProjectorConfig(hidden=0)


def test_a_budget_gives_the_first_tokens_that_all_give() -> None:
    projector, tokens, mask = _projector(), torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool)
    every = projector(tokens, mask)
    for budget in (1, 4, 8):
        torch.testing.assert_close(projector(tokens, mask, budget), every[:, :budget], rtol=1e-5, atol=1e-6)


def test_a_budget_teaches_only_the_tokens_that_it_uses() -> None:
    projector = _projector()
    projector(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool), 4)[..., 0].sum().backward()
    for parameter in (projector.queries, projector.codes):
        assert parameter.grad is not None
        assert parameter.grad[:4].ne(0).any(-1).all()
        assert not parameter.grad[4:].any()


def test_budgets_above_the_number_of_tokens_or_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"outcomes\.budgets has a budget of 16 audio tokens, but .*tokens is 8; use"):
        ProjectorConfig(tokens=8).require("outcomes.budgets", (4, 16))
    for budgets in ((8, 4), (4, 4), (0, 4)):
        with pytest.raises(ConfigError, match=r"here\.budgets must be rising numbers >= 1, got \["):
            check_budgets("here.budgets", budgets)
