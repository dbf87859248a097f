from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from supervised.adapter import Adapter
from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.files import write_tensors
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.load import Fusion
from supervised.fusion.lora import LowRank
from supervised.fusion.parts import Listeners, Sound
from supervised.safe_model import SafeModel
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.examples import Examples
from supervised.stage_a.null_space import NullSpace, principal_directions
from supervised.stage_a.schedule import parameter_groups

ROWS = [0, 1, 2, 3]
RETENTION = ("what colour is the object ?", "how many objects are there ?")


def questions(seed: int) -> list[Sample]:
    """Four retention questions with a sound that does not matter, then two that ask for the sound."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(6):
        time = np.arange(int(rng.uniform(0.5, 1.5) * 16_000)) / 16_000
        sound = Waveform((0.5 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        if i < 4:
            samples.append(Sample(f"v{i}", RETENTION[i % 2], ("red",), picture, sound, "scenes-vl"))
        else:
            samples.append(Sample(f"a{i}", "which sound can you hear from left ?", ("dog",), picture, sound))
    return samples


@pytest.fixture
def prepare(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[..., Examples]:
    def make(kind: Any = "lora", **fusion: Any) -> Examples:
        torch.manual_seed(0)
        config = FusionConfig(kind=kind, residual_scale=1.0, **fusion)
        model = SafeModel.attach(
            ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), dtype="float32", fusion=config)
        )
        return Examples(model, questions(5), range(6), lambda _: None)

    return make


def train(examples: Examples, steps: int, null_space: NullSpace | None) -> None:
    """Steps of AdamW with decay, on the label of every question, which moves every part of the adapter."""
    groups = parameter_groups(examples.model.adapter, StageAConfig())
    optimizer = torch.optim.AdamW([{**group, "lr": 0.01, "weight_decay": 0.1} for group in groups])
    batch = examples.batch(range(6))
    for _ in range(steps):
        logits = examples.logits(batch, batch.audio, 1.0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100).backward()
        if null_space is None:
            optimizer.step()
        else:
            with null_space.held():
                optimizer.step()


def first_fusion(adapter: Adapter) -> tuple[Fusion, CrossAttentionFusion]:
    """The fusion of the first place, and the cross-attention in it."""
    fusion = adapter.fusion[0] if isinstance(adapter.fusion, nn.ModuleList) else adapter.fusion
    assert isinstance(fusion, Fusion)
    return fusion, fusion if isinstance(fusion, CrossAttentionFusion) else fusion.attention


def query_inputs(examples: Examples, rows: list[int]) -> Tensor:
    """What the first query is given at the positions that hear, (N, D), taken from the fusion's own arguments."""
    top, attention = first_fusion(examples.model.adapter)
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Listeners, Sound]) -> None:
        hidden = args[0].hidden
        queries = hidden / args[0].unit if attention.query_norm is None else attention.query_norm(hidden)
        seen.append(queries[args[0].hears].detach())

    handle = top.register_forward_pre_hook(hook)
    batch = examples.batch(rows)
    with torch.no_grad():
        examples.logits(batch, batch.audio, 1.0)
    handle.remove()
    return seen[0]


def test_directions_hold_the_share_of_a_moment_computed_by_hand() -> None:
    # Eigenvalues 6, 3 and 1 of a trace of 10: 60 % in the first, 90 % in two; uncentred, so that a mean counts as well.
    turn = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    moment = turn @ torch.diag(torch.tensor([3.0, 6.0, 1.0], dtype=torch.float64)) @ turn.T
    one, two, three = (principal_directions(moment, share) for share in (0.59, 0.61, 0.95))
    assert (one.shape, two.shape, three.shape) == ((3, 1), (3, 2), (3, 3))
    torch.testing.assert_close(one @ one.T, torch.outer(turn[:, 1], turn[:, 1]).float())
    torch.testing.assert_close(two @ two.T, torch.diag(torch.tensor([1.0, 1.0, 0.0])), atol=1e-6, rtol=0)


def test_displacement_loses_its_part_along_the_directions_computed_by_hand(prepare: Callable[..., Examples]) -> None:
    adapter = prepare(kind="cross_attention", query_norm=False).model.adapter
    basis = torch.zeros(32, 1)
    basis[0], basis[1] = 0.6, 0.8
    null_space = NullSpace(adapter, {"fusion.query.weight": basis})
    weight = adapter.get_parameter("fusion.query.weight")
    with torch.no_grad(), null_space.held():
        weight[0, 0] += 1.0  # along: 0.6 of it, which is (0.36, 0.48)
        weight[1, 5] += 1.0  # at right angles: all of it stays
    expected = torch.eye(32)
    expected[0, 0], expected[0, 1], expected[1, 5] = 1.0 + 0.64, -0.48, 1.0
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=0)


KINDS = [
    {"kind": "lora"},
    {"kind": "cross_attention"},
    {"kind": "block"},
    {"kind": "gated"},
    {"kind": "lora", "query_norm": False},
    {"kind": "lora", "layers": (0, 1)},
]


@pytest.mark.parametrize("fusion", KINDS, ids=lambda fusion: "-".join(str(value) for value in fusion.values()))
def test_what_protected_inputs_ask_for_does_not_move(prepare: Callable[..., Examples], fusion: dict[str, Any]) -> None:
    examples = prepare(**fusion)
    null_space = NullSpace.measure(examples, ROWS, 0.9)
    query = first_fusion(examples.model.adapter)[1].query
    (first, *_) = null_space.tensors().values()  # (D, r)
    inputs = query_inputs(examples, ROWS)
    left = inputs - inputs @ first @ first.T
    assert 0.05 < float(left.square().sum() / inputs.square().sum()) <= 0.1
    span = torch.randn(20, first.shape[1]) @ first.T  # any inputs in the span, not only those seen
    before, outside = query(span).detach(), query(left).detach()
    train(examples, 10, null_space)
    torch.testing.assert_close(query(span).detach(), before, atol=2e-5, rtol=0)
    torch.testing.assert_close(query_inputs(examples, ROWS), inputs, atol=0, rtol=0)  # the norm stood still
    assert float((query(left).detach() - outside).abs().max()) > 1e-3  # what it is free to learn from


def test_without_the_projection_the_same_steps_do_move_it(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    inputs, query = query_inputs(examples, ROWS), first_fusion(examples.model.adapter)[1].query
    before = query(inputs).detach()
    train(examples, 10, None)
    assert float((query(inputs).detach() - before).abs().max()) > 1e-2


def test_measuring_a_fresh_adapter_changes_no_answer(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    batch = examples.batch(range(6))
    before = examples.logits(batch, batch.audio, 1.0)
    null_space = NullSpace.measure(examples, ROWS, 0.9)
    assert list(null_space.tensors()) == ["fusion.query.down.weight"]  # B is free: A is blind to the directions
    assert torch.equal(examples.logits(batch, batch.audio, 1.0), before)


def test_a_trained_low_rank_query_is_protected_as_the_product_it_is(prepare: Callable[..., Examples]) -> None:
    examples = prepare(lora_rank=4)
    train(examples, 3, None)
    query = first_fusion(examples.model.adapter)[1].query
    assert isinstance(query, LowRank)
    down = query.down.weight.detach().clone()
    null_space = NullSpace.measure(examples, ROWS, 0.5)
    assert torch.equal(query.down.weight, down)  # blinding it would change answers now
    basis = null_space.tensors()["fusion.query.down.weight"]
    before = query(basis.T).detach()
    train(examples, 10, null_space)
    torch.testing.assert_close(query(basis.T).detach(), before, atol=2e-5, rtol=0)


def test_padding_and_answers_are_not_counted(prepare: Callable[..., Examples]) -> None:
    examples = prepare(query_norm=True)
    bias = examples.model.adapter.get_parameter("fusion.query_norm.bias")
    nn.init.ones_(bias)  # what a position that hears nothing would put in
    together = NullSpace.measure(examples, ROWS, 0.9).tensors()["fusion.query.down.weight"]
    inputs = query_inputs(examples, ROWS).double()
    by_hand = principal_directions(inputs.T @ inputs, 0.9)
    torch.testing.assert_close(together @ together.T, by_hand @ by_hand.T, atol=1e-4, rtol=0)


def test_a_checkpoint_gives_the_same_projection_to_the_bit(prepare: Callable[..., Examples], tmp_path: Path) -> None:
    examples = prepare(layers=(0, 1))
    null_space = NullSpace.measure(examples, ROWS, 0.9)
    start = {name: value.clone() for name, value in examples.model.adapter.state_dict().items()}
    write_tensors(tmp_path / "t.safetensors", {name: value.numpy() for name, value in null_space.tensors().items()})
    train(examples, 3, null_space)
    there = {name: value.clone() for name, value in examples.model.adapter.state_dict().items()}
    examples.model.adapter.load_state_dict(start)
    train(examples, 3, NullSpace.from_tensors(examples.model.adapter, load_file(tmp_path / "t.safetensors")))
    assert all(torch.equal(value, there[name]) for name, value in examples.model.adapter.state_dict().items())


def test_measuring_leaves_no_hook_and_no_gradient(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    NullSpace.measure(examples, ROWS, 0.9)
    assert all(not module._forward_pre_hooks for module in examples.model.adapter.modules())
    assert all(parameter.grad is None for parameter in examples.model.adapter.parameters())


def test_directions_of_another_adapter_are_refused(prepare: Callable[..., Examples]) -> None:
    adapter = prepare().model.adapter
    with pytest.raises(ValueError, match=r"directions \(16, 2\) of 'fusion\.query\.down\.weight' do not fit"):
        NullSpace.from_tensors(adapter, {"fusion.query.down.weight": torch.zeros(16, 2)})
    with pytest.raises(ValueError, match=r"of 'fusion\.query\.weight' do not fit"):
        NullSpace.from_tensors(adapter, {"fusion.query.weight": torch.zeros(32, 2)})


def test_nothing_to_look_at_is_refused(prepare: Callable[..., Examples]) -> None:
    with pytest.raises(ValueError, match="no retention question with a clip"):
        NullSpace.measure(prepare(), [], 0.9)
