from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.errors import CheckpointError
from supervised.files import write_tensors
from supervised.safe_model import SafeModel
from supervised.stage_a.examples import Examples
from supervised.stage_a.fisher import Consolidated, consolidated, fisher_information, fisher_penalty

ROWS = [0, 1, 2]
IDENTITY = {"stage_a": {"seed": 0}, "model": "tiny"}


def retention(count: int, seed: int) -> list[Sample]:
    """Questions about pictures with a sound that does not matter; prompts and answers of several lengths."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        time = np.arange(int(rng.uniform(0.5, 1.5) * 16_000)) / 16_000
        sound = Waveform((0.5 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        text, answer = [("what colour is the object ?", "red"), ("what is it ?", "a yellow dog")][i % 2]
        samples.append(Sample(f"v{i}", text, (answer,), picture, sound, "scenes-vl"))
    return samples


@pytest.fixture
def prepare(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[..., Examples]:
    def make(scale: float = 1.0, seed: int = 0) -> Examples:
        torch.manual_seed(seed)
        fusion = FusionConfig(residual_scale=scale)
        model = SafeModel.attach(
            ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), dtype="float32", fusion=fusion)
        )
        return Examples(model, retention(4, 5), range(4), lambda _: None)

    return make


class TwoNumbers(nn.Module):
    """An adapter whose logits are linear in its numbers, so that gradients can be written down."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.pair = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=dtype))


def test_penalty_is_the_sum_computed_by_hand() -> None:
    adapter = TwoNumbers()
    information = {"pair": torch.tensor([2.0, 0.5]), "scale": torch.tensor(4.0)}
    anchor = {"pair": torch.tensor([0.0, 2.0]), "scale": torch.tensor(2.5)}
    penalty = fisher_penalty(adapter, information, anchor)
    # 2 * 1^2 + 0.5 * (-4)^2 + 4 * 0.5^2 = 2 + 8 + 1
    assert penalty.item() == 11.0
    penalty.backward()
    # 2 F (theta - theta*): 2 * 2 * 1, 2 * 0.5 * -4, 2 * 4 * 0.5
    assert adapter.pair.grad is not None
    assert adapter.scale.grad is not None
    assert (adapter.pair.grad.tolist(), adapter.scale.grad.item()) == ([4.0, -4.0], 4.0)


def test_penalty_is_computed_in_float32_whatever_the_adapter_is() -> None:
    adapter = TwoNumbers(torch.bfloat16)
    information = {"pair": torch.ones(2), "scale": torch.ones(())}
    anchor = {"pair": torch.tensor([1.0, -2.0]), "scale": torch.tensor(3.0 - 2**-9)}  # bfloat16 does not tell it from 3
    penalty = fisher_penalty(adapter, information, anchor)
    assert (penalty.dtype, penalty.item()) == (torch.float32, 2**-18)


def test_penalty_wants_information_of_every_parameter() -> None:
    with pytest.raises(KeyError, match="scale"):
        fisher_penalty(TwoNumbers(), {"pair": torch.ones(2)}, {"pair": torch.ones(2), "scale": torch.ones(())})


def expected(examples: Examples, rows: list[int], gate: float) -> dict[str, Tensor]:
    """The same by the definition: one backward pass per question, token by token, from probabilities."""
    adapter = examples.model.adapter
    total = {name: torch.zeros_like(parameter) for name, parameter in adapter.named_parameters()}
    for row in rows:
        batch, length = examples.batch([row]), len(examples.targets[row])
        plain = examples.logits(batch, None, 0.0)
        heard = examples.logits(batch, batch.audio, gate)
        likelihood = torch.zeros(())
        for k in range(length):
            likelihood = likelihood + heard[0, k].softmax(-1)[int(plain[0, k].argmax())].log()
        adapter.zero_grad()
        likelihood.backward()
        for name, parameter in adapter.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad**2 / len(rows)
    adapter.zero_grad()
    return total


@pytest.mark.parametrize("gate", [1.0, 0.5])
def test_information_is_the_mean_square_of_each_questions_own_gradient(
    prepare: Callable[..., Examples], gate: float
) -> None:
    examples = prepare()
    information = fisher_information(examples, ROWS, gate)
    by_hand = expected(examples, ROWS, gate)
    assert information.keys() == by_hand.keys() == dict(examples.model.adapter.named_parameters()).keys()
    for name, value in by_hand.items():
        torch.testing.assert_close(information[name], value, rtol=1e-3, atol=1e-7 * float(value.max()) + 1e-12)
    assert sum(float(value.sum()) for value in information.values()) > 0


def test_information_asks_for_the_bases_words_not_for_the_labels(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    before = fisher_information(examples, [0])
    batch = examples.batch([0])
    said = examples.logits(batch, None, 0.0).argmax(-1)[0]
    assert said[-1] != batch.labels[0, -1]  # the random base would not end here: its word, not the label, counts
    assert examples.ready is not None
    target = torch.cat([examples.targets[0][:-1], said[-1:]])  # read by nobody: it is the last position
    examples.ready[0] = replace(examples.ready[0], target=target)
    after = fisher_information(examples, [0])
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_information_is_zero_where_a_parameter_plays_no_part(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    examples.model.adapter.unused = nn.Parameter(torch.ones(3))
    information = fisher_information(examples, ROWS)
    assert information["unused"].tolist() == [0.0, 0.0, 0.0]
    assert bool(information["fusion.attention.query.up.weight"].any())
    assert not bool(information["fusion.attention.query.down.weight"].any())  # behind B, which is zero at first


def test_information_leaves_gradients_and_frozen_parameters_as_they_were(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    adapter = examples.model.adapter
    adapter.markers.requires_grad_(False)
    adapter.markers.grad = None
    weight = adapter.get_parameter("projector.contract.weight")
    kept = torch.full_like(weight, 7.0)
    weight.grad = kept
    with torch.no_grad():
        information = fisher_information(examples, ROWS)
    assert bool(information["markers"].any())  # a later phase may train them
    assert not adapter.markers.requires_grad
    assert adapter.markers.grad is None
    assert weight.grad is kept
    assert bool((kept == 7.0).all())
    assert all(parameter.requires_grad for name, parameter in adapter.named_parameters() if name != "markers")
    assert all(not value.requires_grad and value.dtype == torch.float32 for value in information.values())


def test_information_is_the_same_to_the_bit_every_time(prepare: Callable[..., Examples]) -> None:
    examples = prepare()
    state = torch.get_rng_state()
    first = fisher_information(examples, ROWS)
    torch.rand(1)
    second = fisher_information(examples, ROWS)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.set_rng_state(state)


def test_information_without_a_question_is_refused(prepare: Callable[..., Examples]) -> None:
    with pytest.raises(ValueError, match="needs at least one question"):
        fisher_information(prepare(), [])


def same(one: Consolidated, other: Consolidated) -> bool:
    return all(
        torch.equal(value, other.information[name]) and torch.equal(one.anchor[name], other.anchor[name])
        for name, value in one.information.items()
    )


def test_a_run_that_goes_on_finds_information_and_anchor_of_its_start(
    prepare: Callable[..., Examples], tmp_path: Path
) -> None:
    examples, path = prepare(), tmp_path / "fisher.safetensors"
    first = consolidated(path, IDENTITY, examples, ROWS)
    adapter = examples.model.adapter
    assert first.penalty(adapter).item() == 0.0
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    written = path.read_bytes()
    second = consolidated(path, dict(reversed(IDENTITY.items())), examples, ROWS)
    assert same(first, second)
    assert path.read_bytes() == written
    assert {name: value.shape for name, value in second.anchor.items()} == {
        name: parameter.shape for name, parameter in adapter.named_parameters()
    }
    by_hand = sum(float((0.1**2 * value).sum()) for value in first.information.values())
    assert second.penalty(adapter).item() == pytest.approx(by_hand, rel=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing temporary is left


@pytest.mark.parametrize("change", ["identity", "rows", "gate", "questions", "bytes", "truncated", "number", "shape"])
def test_a_file_that_does_not_fit_is_measured_again(
    prepare: Callable[..., Examples], tmp_path: Path, change: str
) -> None:
    examples, path = prepare(), tmp_path / "fisher.safetensors"
    first = consolidated(path, IDENTITY, examples, ROWS)
    old = path.read_bytes()
    identity, rows, gate = dict(IDENTITY), list(ROWS), 1.0
    if change == "identity":
        identity["model"] = "another"
    elif change == "rows":
        rows = [0, 1]
    elif change == "gate":
        gate = 0.5
    elif change == "questions":
        examples = Examples(examples.model, retention(4, 6), range(4), lambda _: None)
    elif change == "bytes":
        path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    elif change == "truncated":
        path.write_bytes(old[:-8])
    elif change == "number":
        path.write_text("not tensors")
    else:
        tensors = {name: value.numpy() for name, value in load_file(path).items()}
        write_tensors(path, {name: value for name, value in tensors.items() if name != "anchor.markers"})
    with torch.no_grad():
        examples.model.adapter.markers.add_(0.5)
    with pytest.raises(CheckpointError, match=r"fisher\.safetensors is missing, .* has begun; put it back, or start"):
        consolidated(path, identity, examples, rows, gate, begun=True)
    second = consolidated(path, identity, examples, rows, gate)
    torch.testing.assert_close(second.anchor["markers"], first.anchor["markers"] + 0.5)
    assert same(second, consolidated(path, identity, examples, rows, gate))
    assert path.read_bytes() != old
