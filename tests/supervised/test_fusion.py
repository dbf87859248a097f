from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supervised.config import FusionConfig
from supervised.errors import ConfigError, ModelError
from supervised.fusion import CrossAttentionFusion, capped


def _fusion(**options: Any) -> CrossAttentionFusion:
    torch.manual_seed(0)
    config = FusionConfig(**({"heads": 1, "query_norm": False, "residual_scale": 0.5, "lora_rank": 2} | options))
    return CrossAttentionFusion(config, width=2, embedding_rms=1.0)


def _everything(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def test_attention_and_residual_by_hand() -> None:
    hidden, tokens = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # Scores 1 / sqrt 2 and 0; the context (w, 1 - w) has a mean square below 1, so the cap leaves it.
    weight = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 1)
    expected = [1 + 0.5 * weight, 0.5 * (1 - weight)]
    assert _fusion()(hidden, tokens, _everything(2))[0, 0].tolist() == pytest.approx(expected)


def test_the_result_is_in_units_of_the_bases_embeddings() -> None:
    torch.manual_seed(0)
    config = FusionConfig(heads=1, query_norm=False, residual_scale=0.5, lora_rank=2)
    plain = CrossAttentionFusion(config, 2, 1.0)
    small = CrossAttentionFusion(config, 2, 0.1)
    hidden, tokens = torch.randn(1, 3, 2), torch.randn(1, 4, 2)
    expected = 0.1 * plain(hidden, tokens, _everything(4))
    assert torch.allclose(small(0.1 * hidden, 0.1 * tokens, _everything(4)), expected, atol=1e-6)


def test_a_context_louder_than_the_base_is_scaled_down_and_a_quiet_one_is_left() -> None:
    contexts = torch.tensor([[3.0, 3.0], [0.0, 2.0], [0.5, -0.5], [0.0, 0.0]])
    # Mean squares 9, 2, 0.25 and 0.
    expected = torch.tensor([[1.0, 1.0], [0.0, math.sqrt(2)], [0.5, -0.5], [0.0, 0.0]])
    assert torch.allclose(capped(contexts), expected)


def test_the_residual_is_at_most_residual_scale_of_the_bases_size() -> None:
    fusion = CrossAttentionFusion(FusionConfig(heads=2, residual_scale=0.05), 8, 0.3)
    torch.nn.init.normal_(fusion.value.lora_B["default"].weight, std=100.0)
    hidden = torch.randn(2, 5, 8)
    residual = fusion(hidden, 50 * torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)) - hidden
    assert residual.square().mean(-1).sqrt().max().item() <= 0.05 * 0.3 * 1.001


def test_masked_tokens_have_no_influence() -> None:
    fusion, hidden, tokens = _fusion(), torch.randn(1, 3, 2), torch.randn(1, 4, 2)
    mask = torch.tensor([[True, True, False, True]])
    other = tokens.clone()
    other[:, 2] = 99.0
    assert torch.equal(fusion(hidden, tokens, mask), fusion(hidden, other, mask))


@given(st.floats(-1e18, 1e18), st.floats(-1e18, 1e18))
def test_scores_are_clamped_so_that_no_size_of_input_gives_nan(hidden: float, token: float) -> None:
    fused = _fusion()(torch.full((1, 1, 2), hidden), torch.tensor([[[token, token], [1.0, 0.0]]]), _everything(2))
    assert torch.isfinite(fused).all()


def test_a_clamped_score_still_leaves_the_other_token_its_share() -> None:
    # Scores of 1000 / sqrt 2 and 0 become 50 and 0.
    fused = _fusion()(torch.tensor([[[1000.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), _everything(2))
    assert fused[0, 0, 1].item() == pytest.approx(0.5 * math.exp(-50), rel=1e-4)


def test_positions_do_not_see_each_other() -> None:
    fusion, hidden, tokens = _fusion(), torch.randn(1, 6, 2), torch.randn(1, 4, 2)
    whole = fusion(hidden, tokens, _everything(4))
    parts = torch.cat([fusion(part, tokens, _everything(4)) for part in hidden.split(2, 1)], 1)
    assert torch.allclose(whole, parts, atol=1e-6)


def test_trained_and_frozen_parts_are_these() -> None:
    trained = {name for name, p in CrossAttentionFusion(FusionConfig(), 8, 1.0).named_parameters() if p.requires_grad}
    lora = {f"{part}.lora_{letter}.default.weight" for part in ("query", "value") for letter in "AB"}
    assert trained == lora | {"query_norm.weight", "query_norm.bias", "residual_scale"}


def test_a_fixed_residual_scale_is_not_trained() -> None:
    assert not _fusion(learn_residual_scale=False).residual_scale.requires_grad


def test_parts_are_float32() -> None:
    assert {parameter.dtype for parameter in _fusion().parameters()} == {torch.float32}


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ModelError, match=r"fusion\.heads = 5 does not divide .* width 12; use e\.g\. 4"):
        CrossAttentionFusion(FusionConfig(heads=5), 12, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 0}, r"fusion\.heads must be at least 1, got 0"),
        ({"lora_rank": -1}, r"fusion\.lora_rank must be at least 1, got -1"),
        ({"residual_scale": 0.0}, r"fusion\.residual_scale must be above 0 and finite, got 0\.0"),
        ({"residual_scale": float("nan")}, r"fusion\.residual_scale must be above 0 and finite, got nan"),
        ({"scope": "suffix"}, r"fusion\.scope must be prompt, got suffix"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FusionConfig(**options)
