from __future__ import annotations

import torch

from supervised.adapter import Adapter
from supervised.config import FusionConfig, ProjectorConfig
from supervised.encoder import AudioFeatures


def _adapter() -> Adapter:
    torch.manual_seed(0)
    fusion = FusionConfig(heads=2, residual_scale=0.5)
    return Adapter(ProjectorConfig(tokens=4), fusion, token_dim=6, embedding_rms=0.5, embedding_mean=torch.arange(8.0))


def _features(present: list[bool]) -> AudioFeatures:
    there = torch.tensor(present)
    tokens = torch.randn(len(present), 5, 6) * there[:, None, None]
    return AudioFeatures(tokens, there[:, None].expand(-1, 5), there, torch.zeros(len(present), 3))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def test_markers_stand_first_and_last_and_start_as_the_mean_embedding() -> None:
    tokens, mask = _adapter().tokens(_features([True]))
    assert tokens.shape == (1, 4 + 2, 8)
    assert tokens[0, 0].tolist() == tokens[0, -1].tolist() == list(range(8))
    assert mask.all()


def test_markers_are_two_vectors_of_their_own() -> None:
    adapter = _adapter()
    adapter.markers.data[1] += 1
    tokens, _ = adapter.tokens(_features([True]))
    assert tokens[0, -1, 0] - tokens[0, 0, 0] == 1


def test_deaf_rows_and_positions_keep_their_bits_even_minus_zero_and_nan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        hidden = torch.randn(2, 3, 8).to(dtype)
        hidden[1, 0], hidden[0, 2] = -0.0, -0.0
        hidden[1, 1] = torch.nan
        hears = torch.tensor([[True, True, False], [True, True, True]])
        fused = _adapter()(hidden, _features([True, False]), 1.0, hears)
        assert fused.dtype == dtype
        assert torch.equal(_bits(fused[1]), _bits(hidden[1]))
        assert torch.equal(_bits(fused[0, 2]), _bits(hidden[0, 2]))
        assert not torch.equal(fused[0, :2], hidden[0, :2])


def test_the_gate_moves_on_a_line_from_the_base_to_the_fused_embedding() -> None:
    adapter, audio, hidden = _adapter(), _features([True]), torch.randn(1, 3, 8)
    hears = torch.ones(1, 3, dtype=torch.bool)
    full, quarter = (adapter(hidden, audio, gate, hears) for gate in (1.0, 0.25))
    assert torch.allclose(quarter, 0.25 * full + 0.75 * hidden, atol=1e-6)


def test_autocast_does_not_lower_the_adapters_precision() -> None:
    adapter, audio, hidden = _adapter(), _features([True]), torch.randn(1, 3, 8)
    hears = torch.ones(1, 3, dtype=torch.bool)
    expected = adapter(hidden, audio, 1.0, hears)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter(hidden, audio, 1.0, hears), expected)


def test_only_the_attention_projections_are_frozen() -> None:
    frozen = {name for name, parameter in _adapter().named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "fusion.query.base_layer.weight",
        "fusion.key.weight",
        "fusion.value.base_layer.weight",
        "fusion.output.weight",
    }
