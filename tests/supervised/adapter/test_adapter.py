from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from small_adapters import FUSIONS, GRID, bits, everywhere, new_adapter, new_features, trained_adapter

from supervised.adapter import Adapter
from supervised.adapter_files import Fit, load_weights, read_adapter, save_adapter
from supervised.adapter_size import parameter_counts
from supervised.config import FusionConfig, ModelConfig, ProjectorConfig
from supervised.errors import ModelError


def test_markers_stand_first_and_last_and_start_as_the_mean_embedding() -> None:
    tokens, mask = new_adapter().tokens(new_features([True]))
    assert tokens.shape == (1, 4 + 2, 8)
    assert tokens[0, 0].tolist() == tokens[0, -1].tolist() == list(range(8))
    assert mask.all()


def test_markers_are_two_vectors_of_their_own() -> None:
    adapter = new_adapter()
    adapter.markers.data[1] += 1
    tokens, _ = adapter.tokens(new_features([True]))
    assert tokens[0, -1, 0] - tokens[0, 0, 0] == 1


def test_deaf_rows_and_positions_keep_their_bits_even_minus_zero_and_nan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        hidden = torch.randn(2, 3, 8).to(dtype)
        hidden[1, 0], hidden[0, 2] = -0.0, -0.0
        hidden[1, 1] = torch.nan
        hears = torch.tensor([[True, True, False], [True, True, True]])
        fused = new_adapter()(hidden, new_features([True, False]), 1.0, hears)
        assert fused.dtype == dtype
        assert torch.equal(bits(fused[1]), bits(hidden[1]))
        assert torch.equal(bits(fused[0, 2]), bits(hidden[0, 2]))
        assert not torch.equal(fused[0, :2], hidden[0, :2])


def test_the_gate_moves_on_a_line_from_the_base_to_the_fused_embedding() -> None:
    adapter, audio, hidden = new_adapter(), new_features([True]), torch.randn(1, 3, 8)
    hears = torch.ones(1, 3, dtype=torch.bool)
    full, quarter = (adapter(hidden, audio, gate, hears) for gate in (1.0, 0.25))
    assert torch.allclose(quarter, 0.25 * full + 0.75 * hidden, atol=1e-6)


def test_autocast_does_not_lower_the_adapters_precision() -> None:
    adapter, audio, hidden = new_adapter(), new_features([True]), torch.randn(1, 3, 8)
    hears = torch.ones(1, 3, dtype=torch.bool)
    expected = adapter(hidden, audio, 1.0, hears)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter(hidden, audio, 1.0, hears), expected)


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_nothing_in_an_adapter_is_frozen_but_a_residual_scale_that_is_fixed(
    projector: ProjectorConfig, fusion: FusionConfig
) -> None:
    def frozen(adapter: Adapter) -> set[str]:
        return {name for name, parameter in adapter.named_parameters() if not parameter.requires_grad}

    scales = {"fusion.0.residual_scale"} if fusion.layers else {"fusion.residual_scale"}
    assert frozen(new_adapter(projector, fusion)) == set()
    assert frozen(new_adapter(projector, replace(fusion, residual="fixed"))) == scales


def test_a_saved_adapter_of_any_kind_says_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    hidden, audio = torch.randn(2, 3, 8), new_features([True, True])
    for number, param in enumerate(GRID):
        projector, fusion = param.values
        assert isinstance(projector, ProjectorConfig)
        assert isinstance(fusion, FusionConfig)
        adapter, folder = trained_adapter(projector, fusion), tmp_path / str(number)
        config = ModelConfig(projector=projector, fusion=fusion)
        save_adapter(folder, adapter, config, Fit("a", 8, 0.5, "b", 6))
        found, _, weights = read_adapter(folder)
        assert found == config
        torch.manual_seed(99)  # another draw, were something not loaded
        other = Adapter(found.projector, found.fusion, 6, 0.5, torch.zeros(8))
        load_weights(other, weights)
        for place in range(adapter.places):
            expected, loaded = (each(hidden, audio, 1.0, everywhere(hidden), place=place) for each in (adapter, other))
            assert torch.equal(bits(loaded), bits(expected))


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_every_trainable_parameter_learns_within_two_steps(projector: ProjectorConfig, fusion: FusionConfig) -> None:
    adapter, audio, hidden = new_adapter(projector, fusion), new_features([True, True, False]), torch.randn(3, 5, 8)
    optimizer = torch.optim.SGD([p for p in adapter.parameters() if p.requires_grad], lr=0.5)
    target = torch.randn(3, 5, 8)
    for _ in range(2):
        optimizer.zero_grad()
        fused = hidden
        for place in range(adapter.places):
            fused = adapter(fused, audio, 0.7, everywhere(hidden), place=place)
        (fused - target).square().sum().backward()
        optimizer.step()
    deaf = {
        name
        for name, parameter in adapter.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    }
    assert deaf == set()
    assert all(parameter.grad is None for parameter in adapter.parameters() if not parameter.requires_grad)


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_deaf_rows_and_positions_of_any_kind_keep_their_bits(projector: ProjectorConfig, fusion: FusionConfig) -> None:
    adapter = trained_adapter(projector, fusion)
    for dtype, place in product((torch.float32, torch.bfloat16), range(adapter.places)):
        hidden = torch.randn(2, 3, 8).to(dtype)
        hidden[1, 0], hidden[0, 2, :4], hidden[0, 2, 4:], hidden[1, 1] = -0.0, -0.0, torch.nan, torch.inf
        hears = torch.tensor([[True, True, False], [True, False, True]])
        fused = adapter(hidden, new_features([True, False]), 0.5, hears, place=place)
        assert fused.dtype == dtype
        assert torch.equal(bits(fused[1]), bits(hidden[1]))
        assert torch.equal(bits(fused[0, 2]), bits(hidden[0, 2]))
        assert bool((fused[0, :2] != hidden[0, :2]).any(-1).all())


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_neither_silence_nor_what_stands_at_deaf_positions_makes_a_gradient_nan(
    projector: ProjectorConfig, fusion: FusionConfig
) -> None:
    adapter, audio = trained_adapter(projector, fusion), new_features([True, False])
    silent = replace(audio, tokens=torch.zeros_like(audio.tokens))
    hidden = torch.zeros(2, 3, 8)
    hidden[:, 2] = torch.nan
    hears = torch.tensor([[True, True, False], [True, True, False]])
    for place in range(adapter.places):
        fused = adapter(hidden, silent, 0.5, hears, place=place)
        assert torch.isfinite(fused[:, :2]).all()
        fused[:, :2].sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in adapter.parameters())


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_a_prompt_in_chunks_is_fused_as_a_whole_one_unless_its_gate_needs_all_of_it(
    projector: ProjectorConfig, fusion: FusionConfig
) -> None:
    adapter, audio, hidden = trained_adapter(projector, fusion), new_features([True, True]), torch.randn(2, 6, 8)
    assert adapter.needs_whole_prompt == (fusion.kind == "gated")
    for place in range(adapter.places):
        whole = adapter(hidden, audio, 1.0, everywhere(hidden), place=place)
        parts = [adapter(part, audio, 1.0, everywhere(part), place=place) for part in hidden.split((1, 3, 2), 1)]
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5) == (not adapter.needs_whole_prompt)


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_positions_that_do_not_hear_have_no_say_in_those_that_do(
    projector: ProjectorConfig, fusion: FusionConfig
) -> None:
    adapter, audio, hidden = trained_adapter(projector, fusion), new_features([True]), torch.randn(1, 4, 8)
    hears = torch.tensor([[False, True, True, False]])
    other = torch.where(hears[..., None], hidden, torch.randn(1, 4, 8))
    for place in range(adapter.places):
        first, second = (adapter(each, audio, 1.0, hears, place=place) for each in (hidden, other))
        assert torch.equal(first[:, 1:3], second[:, 1:3])


@pytest.mark.parametrize(
    ("residual", "names"),
    [
        ("fixed", set()),
        ("learned", {"fusion.0.residual_scale"}),
        ("per_layer", {"fusion.0.residual_scale", "fusion.1.residual_scale", "fusion.2.residual_scale"}),
    ],
)
def test_the_residual_scale_is_fixed_or_shared_or_each_layers_own(residual: Any, names: set[str]) -> None:
    adapter = new_adapter(fusion=FusionConfig(heads=2, layers=(0, 2, 5), residual=residual, residual_scale=0.5))
    trained = {name for name, p in adapter.named_parameters() if p.requires_grad and name.endswith("residual_scale")}
    assert trained == names
    hidden, audio = torch.randn(1, 3, 8), new_features([True])
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    for results in (before, after):
        with torch.no_grad():
            results += [adapter(hidden, audio, 1.0, everywhere(hidden), place=place) - hidden for place in range(3)]
            adapter.get_parameter("fusion.0.residual_scale").mul_(2)
    factors = [2, 1, 1] if residual == "per_layer" else [2, 2, 2]
    for factor, first, second in zip(factors, before, after, strict=True):
        torch.testing.assert_close(second, factor * first, rtol=1e-4, atol=1e-5)


def test_a_single_place_has_one_residual_scale_trained_or_not() -> None:
    kinds: dict[Literal["fixed", "learned", "per_layer"], bool] = {"fixed": False, "learned": True, "per_layer": True}
    for residual, trained in kinds.items():
        adapter = new_adapter(fusion=FusionConfig(heads=2, residual=residual))
        assert adapter.get_parameter("fusion.residual_scale").requires_grad == trained


def test_an_adapter_of_inserted_tokens_has_no_fusion_and_says_so() -> None:
    fusion = FusionConfig(injection="tokens")
    adapter = new_adapter(fusion=fusion)
    assert (adapter.places, adapter.needs_whole_prompt) == (0, False)
    assert {name.split(".")[0] for name in adapter.state_dict()} == {"projector", "markers"}
    assert parameter_counts(ProjectorConfig(tokens=4), fusion, 6, 8).keys() == {"projector", "markers"}
    with pytest.raises(ModelError, match="an adapter of inserted tokens fuses nothing; use `tokens`, or fusion"):
        adapter(torch.randn(1, 3, 8), new_features([True]), 1.0, torch.ones(1, 3, dtype=torch.bool))


def test_places_have_fusion_modules_of_their_own() -> None:
    adapter = trained_adapter(ProjectorConfig(tokens=4), FusionConfig(heads=2, layers=(0, 4)))
    hidden, audio = torch.randn(1, 3, 8), new_features([True])
    first, second = (adapter(hidden, audio, 1.0, everywhere(hidden), place=place) for place in (0, 1))
    assert adapter.places == 2
    assert not torch.allclose(first, second)


def test_embeddings_are_measured_in_the_bases_unit_and_deeper_states_in_their_own() -> None:
    audio, hidden = new_features([True]), torch.randn(1, 3, 8)
    one = new_adapter(fusion=FusionConfig(heads=2, residual_scale=0.5))
    many = new_adapter(fusion=FusionConfig(heads=2, residual_scale=0.5, layers=(3,)))
    embedded, states = (each(hidden, audio, 1.0, everywhere(hidden)) - hidden for each in (one, many))
    # The same projections on the same normed query: the residuals differ by their units alone.
    torch.testing.assert_close(states, embedded / 0.5 * hidden.square().mean(-1, keepdim=True).sqrt())
    louder = many(1000 * hidden, audio, 1.0, everywhere(hidden)) - 1000 * hidden
    torch.testing.assert_close(louder, 1000 * states, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_parameters_are_counted_without_being_made(projector: ProjectorConfig, fusion: FusionConfig) -> None:
    counts = parameter_counts(projector, fusion, token_dim=6, width=8)
    adapter = new_adapter(projector, fusion)
    assert sum(part.trainable for part in counts.values()) == sum(
        parameter.numel() for parameter in adapter.parameters() if parameter.requires_grad
    )
    assert sum(part.frozen for part in counts.values()) == sum(
        parameter.numel() for parameter in adapter.parameters() if not parameter.requires_grad
    )


def test_parameters_of_a_large_adapter_by_hand() -> None:
    counts = parameter_counts(ProjectorConfig(), FusionConfig(), token_dim=768, width=4096)
    projector = 2 * 768 + 8 * 768 + (768 + 1) * 4096 + 8 * 4096 + (4096 + 1) * 4096
    assert (counts["projector"].trainable, counts["projector"].frozen) == (projector, 0)
    attention = 4 * 8 * 4096 + 2 * 4096 + 1  # four LoRA matrices of rank 8, the norm, the residual scale
    gate = 4096 + 2 * 2 * 4096 + 64 * (2 * 4096 + 1) + 65  # where to look, two norms, two layers
    assert (counts["fusion"].trainable, counts["fusion"].frozen) == (attention + gate, 0)
    assert counts["markers"].trainable == 2 * 4096


@pytest.mark.parametrize("kind", FUSIONS)
def test_without_rms_match_no_kind_of_fusion_is_capped(kind: Any) -> None:
    hidden, features = torch.randn(1, 3, 8), new_features([True])
    hears = torch.ones(1, 3, dtype=torch.bool)
    sizes = {}
    for match in (True, False):
        adapter = new_adapter(fusion=FusionConfig(kind=kind, heads=2, residual_scale=0.5, rms_match=match))
        with torch.no_grad():
            adapter.markers.fill_(50.0)  # a hundred units: whatever is attended to is loud
            residual = (adapter(hidden, features, 1.0, hears) - hidden) / (0.5 * 0.5)  # scale 0.5, unit 0.5
        sizes[match] = float(residual.square().mean(-1).sqrt().max())
    assert sizes[True] <= 1 + 1e-5
    assert sizes[False] > 10


def test_dropout_scales_what_it_leaves_of_the_residual_and_drops_nothing_outside_training() -> None:
    adapter = new_adapter(fusion=FusionConfig(heads=2, residual_scale=0.5, dropout=0.25))
    hidden, features = torch.randn(2, 50, 8), new_features([True, True])
    hears = torch.ones(2, 50, dtype=torch.bool)
    with torch.no_grad():
        whole = adapter.eval()(hidden, features, 1.0, hears) - hidden
        assert torch.equal(adapter(hidden, features, 1.0, hears) - hidden, whole)
        dropped = adapter.train()(hidden, features, 1.0, hears) - hidden
    gone = dropped == 0
    assert 0.15 < gone.float().mean() < 0.35  # of 800 numbers, 0.25 give or take six standard deviations
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.75, rtol=1e-3, atol=1e-5)


def test_in_training_dropout_leaves_deaf_rows_and_positions_their_bits() -> None:
    adapter = new_adapter(fusion=FusionConfig(heads=2, residual_scale=0.5, dropout=0.5)).train()
    hidden = torch.randn(2, 4, 8)
    hidden[:, 1] = -0.0
    hears = torch.tensor([[True, False, True, True]]).expand(2, -1)
    result = adapter(hidden, new_features([True, False]), 1.0, hears)
    assert torch.equal(result[:, 1].view(torch.int32), hidden[:, 1].view(torch.int32))
    assert torch.equal(result[1].view(torch.int32), hidden[1].view(torch.int32))
    assert not torch.equal(result[0, 0], hidden[0, 0])


def test_dropout_has_no_weights_and_is_nothing_by_default() -> None:
    plain, dropping = new_adapter(), new_adapter(fusion=FusionConfig(heads=2, residual_scale=0.5, dropout=0.5))
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    hidden, features = torch.randn(1, 3, 8), new_features([True])
    hears = torch.ones(1, 3, dtype=torch.bool)
    trained = plain.train()(hidden, features, 1.0, hears)
    assert torch.equal(trained, plain.eval()(hidden, features, 1.0, hears))
