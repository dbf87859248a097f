from __future__ import annotations

from typing import Any

import pytest
import torch

from supervised.config import ProjectorConfig, check_budgets
from supervised.errors import ConfigError
from supervised.projectors.mlp import AudioProjector


def _projector(tokens: int = 8, layers: int = 2) -> AudioProjector:
    torch.manual_seed(0)
    return AudioProjector(ProjectorConfig(tokens=tokens, layers=layers), token_dim=6, width=10, embedding_rms=0.25)


@pytest.mark.parametrize("count", [4, 8, 12, 16])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_k_tokens_of_the_bases_width_and_size(count: int, layers: int) -> None:
    spoken = _projector(count, layers)(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))
    assert spoken.shape == (3, count, 10)
    assert torch.allclose(spoken.square().mean(-1).sqrt(), torch.tensor(0.25), rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_layers_are_counted_as_linear_maps_from_slots_to_tokens(layers: int) -> None:
    projector = _projector(layers=layers)
    shapes = [list(m.weight.shape) for m in projector.modules() if isinstance(m, torch.nn.Linear)]
    assert sorted(shapes) == sorted([[10, 6], *[[10, 10]] * (layers - 1)])


def test_two_layers_by_hand() -> None:
    projector = AudioProjector(ProjectorConfig(tokens=4, hidden=1), token_dim=2, width=2, embedding_rms=1.0)
    assert projector.expand is not None
    with torch.no_grad():
        projector.expand.weight.copy_(torch.tensor([[1.0, 0.0]]))
        projector.expand.bias.fill_(0.5)
        projector.codes.fill_(0.25)
        projector.contract.weight.copy_(torch.tensor([[1.0], [3.0]]))
        projector.contract.bias.zero_()
    # One token (3, 1) is (1, -1) after the norm; 1 + 0.5 + 0.25 = 1.75, gelu > 0; (g, 3 g) of size sqrt(5) g.
    spoken = projector(torch.tensor([[[3.0, 1.0]]]), torch.ones(1, 1, dtype=torch.bool))
    assert spoken[0, 0].tolist() == pytest.approx([5**-0.5, 3 * 5**-0.5], rel=1e-4)


def test_one_layer_is_a_linear_map_of_slot_and_code() -> None:
    projector = _projector(layers=1)
    tokens, mask = torch.randn(1, 7, 6), torch.ones(1, 7, dtype=torch.bool)
    told = (projector.slots(tokens, mask) + projector.codes) @ projector.contract.weight.T + projector.contract.bias
    expected = 0.25 * told / told.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(projector(tokens, mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_every_layer_learns(layers: int) -> None:
    projector = _projector(layers=layers)
    projector(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))[..., 0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in projector.parameters())


def test_the_tokens_of_one_clip_differ() -> None:
    spoken = _projector()(torch.randn(1, 7, 6), torch.ones(1, 7, dtype=torch.bool))[0]
    assert torch.pdist(spoken).min() > 0.01


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_masked_tokens_have_no_influence(layers: int) -> None:
    projector, tokens = _projector(layers=layers), torch.randn(1, 7, 6)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 5}, r"projector\.tokens must be 4, 8, 12 or 16, got 5; use e\.g\. 8"),
        ({"tokens": "8"}, r"projector\.tokens must be a whole number, got '8'; use e\.g\. 4"),
        ({"hidden": 0.5}, r"projector\.hidden must be a whole number, got 0\.5"),
        ({"kind": "resampler", "tokens": 32}, r"projector\.tokens must be 4, 8, 12 or 16, got 32"),
        ({"kind": "adaptive", "tokens": 33}, r"projector\.tokens must be 1 to 32 for adaptive, got 33; use e\.g\. 32"),
        ({"kind": "q-former"}, r"projector\.kind must be mlp, adaptive or resampler, got q-former; use e\.g\. mlp"),
        ({"layers": 0}, r"projector\.layers must be 1 to 4, got 0; use e\.g\. 2"),
        ({"layers": 5}, r"projector\.layers must be 1 to 4, got 5"),
        ({"hidden": 0}, r"projector\.hidden must be at least 1, got 0"),
        ({"hidden": 9, "layers": 1}, r"projector\.hidden is 9, but an MLP of one layer has no hidden layer; leave it"),
        (
            {"hidden": 9, "kind": "resampler"},
            r"projector\.hidden is 9, but the resampler has no hidden layer; leave it",
        ),
        ({"heads": 3}, r"projector\.heads must divide projector\.bottleneck, got 3 and 128; use e\.g\. 4 and 128"),
        ({"heads": 0}, r"projector\.heads must divide projector\.bottleneck, got 0 and 128"),
        ({"kind": "resampler", "heads": 1, "bottleneck": 1}, r"projector\.bottleneck must be at least 2, got 1, and"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProjectorConfig(**options)


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
    with pytest.raises(ConfigError, match=r"outcomes\.budgets is \[4\], but the adaptive projector chooses .*; leave"):
        ProjectorConfig(kind="adaptive").require("outcomes.budgets", (4,))
    ProjectorConfig(kind="adaptive").require("outcomes.budgets", ())
    for budgets in ((8, 4), (4, 4), (0, 4)):
        with pytest.raises(ConfigError, match=r"here\.budgets must be rising numbers >= 1, got \["):
            check_budgets("here.budgets", budgets)
