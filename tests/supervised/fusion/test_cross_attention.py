from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supervised.config import FusionConfig
from supervised.errors import ConfigError, ModelError
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.load import new_fusion
from supervised.fusion.parts import Listeners, Sound, capped, sizes


def _fusion(**options: Any) -> CrossAttentionFusion:
    torch.manual_seed(0)
    config = FusionConfig(**({"heads": 1, "query_norm": False, "lora_rank": 2} | options))
    return CrossAttentionFusion(config, width=2, embedding_rms=1.0)


def _everything(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def _listeners(hidden: torch.Tensor, unit: float = 1.0) -> Listeners:
    return Listeners(hidden, unit, torch.ones(hidden.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("kind", ["lora", "cross_attention"])
def test_attention_by_hand(kind: str) -> None:
    hidden, tokens = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # Scores 1 / sqrt 2 and 0; the context (w, 1 - w) has a mean square below 1, so the cap leaves it.
    weight = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 1)
    residual = _fusion(kind=kind)(_listeners(hidden), Sound(tokens, _everything(2)))
    assert residual[0, 0].tolist() == pytest.approx([weight, 1 - weight])


def test_sizes_count_in_units_of_the_bases_embeddings() -> None:
    config = FusionConfig(heads=1, query_norm=False, lora_rank=2)
    plain = CrossAttentionFusion(config, 2, 1.0)
    small = CrossAttentionFusion(config, 2, 0.1)
    hidden, tokens = torch.randn(1, 3, 2), torch.randn(1, 4, 2)
    expected = plain(_listeners(hidden), Sound(tokens, _everything(4)))
    found = small(_listeners(0.1 * hidden, 0.1), Sound(0.1 * tokens, _everything(4)))
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_context_louder_than_the_base_is_scaled_down_and_a_quiet_one_is_left() -> None:
    contexts = torch.tensor([[3.0, 3.0], [0.0, 2.0], [0.5, -0.5], [0.0, 0.0]])
    # Mean squares 9, 2, 0.25 and 0.
    expected = torch.tensor([[1.0, 1.0], [0.0, math.sqrt(2)], [0.5, -0.5], [0.0, 0.0]])
    assert torch.allclose(capped(contexts), expected)


@pytest.mark.parametrize("kind", ["lora", "cross_attention"])
def test_without_rms_match_a_loud_context_stays_as_loud_as_it_is(kind: str) -> None:
    # One token is all there is to attend to: the context is that token, of a root mean square of 3.
    tokens, hidden = torch.tensor([[[3.0, -3.0]]]), torch.zeros(1, 1, 2)
    residuals = {
        match: _fusion(kind=kind, rms_match=match)(_listeners(hidden), Sound(tokens, _everything(1)))[0, 0].tolist()
        for match in (True, False)
    }
    assert residuals[True] == pytest.approx([1.0, -1.0])
    assert residuals[False] == pytest.approx([3.0, -3.0])


def test_the_size_of_a_position_is_its_root_mean_square_and_has_no_gradient() -> None:
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], requires_grad=True)
    size = sizes(hidden)
    assert size[0, :, 0].tolist() == pytest.approx([5 / math.sqrt(2), 1e-6])
    assert not size.requires_grad


def test_the_residual_is_at_most_one_unit() -> None:
    fusion = CrossAttentionFusion(FusionConfig(heads=2), 8, 0.3)
    torch.nn.init.normal_(fusion.get_parameter("value.up.weight"), std=100.0)
    sound = Sound(50 * torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool))
    residual = fusion(_listeners(torch.randn(2, 5, 8), 0.3), sound)
    assert 0.9 < residual.square().mean(-1).sqrt().max().item() <= 1.001


def test_masked_tokens_have_no_influence() -> None:
    fusion, hidden, tokens = _fusion(), _listeners(torch.randn(1, 3, 2)), torch.randn(1, 4, 2)
    mask = torch.tensor([[True, True, False, True]])
    other = tokens.clone()
    other[:, 2] = 99.0
    assert torch.equal(fusion(hidden, Sound(tokens, mask)), fusion(hidden, Sound(other, mask)))


@given(st.floats(-1e18, 1e18), st.floats(-1e18, 1e18))
def test_scores_are_clamped_so_that_no_size_of_input_gives_nan(hidden: float, token: float) -> None:
    sound = Sound(torch.tensor([[[token, token], [1.0, 0.0]]]), _everything(2))
    assert torch.isfinite(_fusion()(_listeners(torch.full((1, 1, 2), hidden)), sound)).all()


def test_a_clamped_score_still_leaves_the_other_token_its_share() -> None:
    # Scores of 1000 / sqrt 2 and 0 become 50 and 0.
    sound = Sound(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), _everything(2))
    residual = _fusion()(_listeners(torch.tensor([[[1000.0, 0.0]]])), sound)
    assert residual[0, 0, 1].item() == pytest.approx(math.exp(-50), rel=1e-4, abs=0)


def test_positions_do_not_see_each_other() -> None:
    fusion, hidden, sound = _fusion(), torch.randn(1, 6, 2), Sound(torch.randn(1, 4, 2), _everything(4))
    whole = fusion(_listeners(hidden), sound)
    parts = torch.cat([fusion(_listeners(part), sound) for part in hidden.split(2, 1)], 1)
    assert torch.allclose(whole, parts, atol=1e-6)


def _trained(kind: Any) -> set[str]:
    parameters = dict(CrossAttentionFusion(FusionConfig(kind=kind), 8, 1.0).named_parameters())
    assert all(parameter.requires_grad for parameter in parameters.values())  # what is not trained is not there
    return set(parameters)


def test_lora_trains_deviations_on_query_and_value_and_the_norm() -> None:
    lora = {f"{part}.{matrix}.weight" for part in ("query", "value") for matrix in ("down", "up")}
    assert _trained("lora") == lora | {"query_norm.weight", "query_norm.bias"}


def test_plain_cross_attention_trains_all_four_projections_and_the_norm() -> None:
    projections = {f"{part}.weight" for part in ("query", "key", "value", "output")}
    assert _trained("cross_attention") == projections | {"query_norm.weight", "query_norm.bias"}


def test_parts_are_float32() -> None:
    assert {parameter.dtype for parameter in _fusion().parameters()} == {torch.float32}


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ModelError, match=r"fusion\.heads = 5 does not divide .* width 12; use e\.g\. 4"):
        CrossAttentionFusion(FusionConfig(heads=5), 12, 1.0)


@pytest.mark.parametrize("kind", ["lora", "gated"])
def test_a_rank_above_the_width_is_refused_where_there_is_one(kind: Any) -> None:
    message = r"fusion\.lora_rank is 13, but .* width of 12; use 1 to 12, or fusion\.kind cross_attention"
    with pytest.raises(ModelError, match=message):
        new_fusion(FusionConfig(kind=kind, lora_rank=13), 12, 1.0)
    new_fusion(FusionConfig(kind=kind, lora_rank=12), 12, 1.0)
    new_fusion(FusionConfig(kind="cross_attention", lora_rank=13), 12, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "concatenation"}, r"fusion\.kind must be lora, cross_attention, block or gated, got concat.*; use"),
        ({"residual": "none"}, r"fusion\.residual must be learned, per_layer or fixed, got none; use e\.g\. learned"),
        ({"layers": (8, 0)}, r"fusion\.layers must be rising numbers >= 0, got \[8, 0\]; use e\.g\. \[0, 8, 16\]"),
        ({"layers": 3}, r"fusion\.layers must be a list, got 3; use e\.g\. \[0, 8, 16\], or \[\]\."),
        ({"layers": (0.5,)}, r"fusion\.layers must be a whole number, got 0\.5; use e\.g\. 4"),
        ({"heads": "4"}, r"fusion\.heads must be a whole number, got '4'"),
        ({"heads": True}, r"fusion\.heads must be a whole number, got True"),
        ({"layers": (-1,)}, r"fusion\.layers must be rising numbers >= 0, got \[-1\]"),
        ({"heads": 0}, r"fusion\.heads must be at least 1, got 0"),
        ({"lora_rank": -1}, r"fusion\.lora_rank must be at least 1, got -1"),
        ({"residual_scale": 0.0}, r"fusion\.residual_scale must be above 0 and finite, got 0\.0"),
        ({"residual_scale": float("nan")}, r"fusion\.residual_scale must be above 0 and finite, got nan"),
        ({"dropout": 1.0}, r"fusion\.dropout must be at least 0 and below 1, got 1\.0; use e\.g\. 0\.1"),
        ({"dropout": float("nan")}, r"fusion\.dropout must be at least 0 and below 1, got nan"),
        (
            {"injection": "tokens", "dropout": 0.1},
            r"fusion\.dropout is 0\.1, but inserted tokens pass no fusion; leave it",
        ),
        ({"scope": "all"}, r"fusion\.scope must be prompt or suffix, got all"),
        ({"injection": "prefix"}, r"fusion\.injection must be residual or tokens, got prefix"),
        (
            {"injection": "tokens", "layers": (0,)},
            r"fusion\.layers is \[0\], but inserted tokens pass no fusion; leave",
        ),
        ({"injection": "tokens", "kind": "lora"}, r"fusion\.kind is lora, but inserted tokens pass no fusion"),
        (
            {"injection": "tokens", "kind": "block", "heads": 2, "rms_match": False},
            r"^fusion\.kind is block, fusion\.heads is 2, fusion\.rms_match is False, but inserted tokens",
        ),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FusionConfig(**options)
