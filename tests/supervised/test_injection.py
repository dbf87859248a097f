from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.errors import ModelError
from supervised.injection import Heard, check_layers, hearing, text_layers
from supervised.safe_model import SafeModel


def test_chunked_prefill_gives_the_logits_of_one_pass(tiny_config: ModelConfig, tiny_samples: list[Sample]) -> None:
    from transformers import DynamicCache

    fusion = replace(tiny_config.fusion, kind="lora")  # a gate needs the prompt in one piece
    tiny_model = SafeModel.attach(replace(tiny_config, fusion=fusion))

    ids = torch.randint(5, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    audio = tiny_model.encode_audio([sample.audio for sample in tiny_samples[:2]])
    hears = torch.ones(2, 10, dtype=torch.bool)  # the last two positions are the answer

    def logits(chunks: tuple[int, ...]) -> torch.Tensor:
        cache, parts = DynamicCache(), []
        with torch.no_grad(), hearing(tiny_model.stack, tiny_model.adapter, Heard(audio, 1.0, hears)):
            for part in ids.split(chunks, 1):
                parts.append(tiny_model.base(input_ids=part, past_key_values=cache).logits)
        return torch.cat(parts, 1)

    whole = logits((12,))
    assert torch.allclose(logits((5, 4, 2, 1)), whole, atol=1e-5)
    assert not torch.allclose(tiny_model.base(input_ids=ids).logits, whole, atol=1e-3)


def test_a_call_within_a_call_is_refused(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    audio = tiny_model.encode_audio([tiny_samples[0].audio])
    hears = torch.ones(1, 3, dtype=torch.bool)
    arguments = (tiny_model.stack, tiny_model.adapter, Heard(audio, 1.0, hears))
    with hearing(*arguments), pytest.raises(ModelError, match="within another call with audio"), hearing(*arguments):
        pass
    with hearing(*arguments):  # and the first one has ended properly
        assert len(tiny_model.stack._forward_pre_hooks) == 1
    assert len(tiny_model.stack._forward_pre_hooks) == 0


def test_another_thread_does_not_hear(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    ids = torch.tensor([[7, 8, 9]])
    audio = tiny_model.encode_audio([tiny_samples[0].audio])
    seen: list[torch.Tensor] = []

    def plain() -> None:
        with torch.no_grad():
            seen.append(tiny_model.base(input_ids=ids).logits)

    plain()
    heard = Heard(audio, 1.0, torch.ones(1, 3, dtype=torch.bool))
    with hearing(tiny_model.stack, tiny_model.adapter, heard):
        other = threading.Thread(target=plain)
        other.start()
        other.join()
        plain()
    assert torch.equal(seen[1], seen[0])
    assert not torch.equal(seen[2], seen[0])


# Layers of the text stack that hear.


@pytest.fixture(scope="module")
def layered(tiny_config: ModelConfig) -> SafeModel:
    """The tiny models, heard in both layers."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return SafeModel.attach(replace(tiny_config, fusion=replace(tiny_config.fusion, layers=(0, 1))))


def _inputs_of_layers(model: SafeModel) -> tuple[list[Tensor], Any]:
    """Let the layers tell what they are given, after what our own hooks have done to it."""
    seen: list[Tensor] = []

    def tell(_: Any, args: Any, kwargs: Any, __: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    return seen, [layer.register_forward_hook(tell, with_kwargs=True) for layer in model.stack.layers]


@torch.no_grad()
def test_each_chosen_layer_is_given_what_the_adapter_makes_for_its_place(
    layered: SafeModel, tiny_samples: list[Sample]
) -> None:
    inputs = layered.inputs(tiny_samples)
    audio = layered.encode_audio([sample.audio for sample in tiny_samples])
    hears = inputs["attention_mask"].bool()
    plain, hooks = _inputs_of_layers(layered)
    layered.forward(inputs)
    heard = [layered.adapter(plain[0], audio, 1.0, hears, None, 0)]
    plain.clear()
    layered.forward(inputs, audio)
    for hook in hooks:
        hook.remove()
    assert torch.allclose(plain[0], heard[0], atol=1e-6)
    second = layered.stack.layers[0](plain[0], **_rope(layered, inputs))
    expected = layered.adapter(second, audio, 1.0, hears, None, 1)
    assert torch.allclose(plain[1][hears], expected[hears], atol=1e-4)
    assert not torch.allclose(plain[1][:4][hears[:4]], second[:4][hears[:4]], atol=1e-3)


def _rope(model: SafeModel, inputs: Any) -> dict[str, Any]:
    """Return what a layer needs beside its hidden states."""
    length = inputs["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = causal & inputs["attention_mask"].bool()[:, None, None]  # (B, 1, L, L)
    positions = torch.arange(length)[None]
    states = torch.zeros(1, length, 32)
    return {
        "attention_mask": torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min),
        "position_embeddings": model.stack.rotary_emb(states, position_ids=positions),
    }


def test_layers_that_hear_do_so_in_the_prompt_only_however_it_is_computed(
    layered: SafeModel, tiny_samples: list[Sample]
) -> None:
    inputs = layered.inputs(tiny_samples)
    audio = layered.encode_audio([sample.audio for sample in tiny_samples])
    cached, plain = layered.generate(inputs, audio), layered.generate(inputs)
    uncached = layered.generate(inputs, audio, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(cached.logits, uncached.logits, strict=True))
    assert not torch.equal(cached.sequences, plain.sequences)
    assert all(torch.equal(a[4], b[4]) for a, b in zip(cached.logits, plain.logits, strict=True))  # no audio
    closed = layered.generate(inputs, audio, gate=0.0)
    assert all(torch.equal(a, b) for a, b in zip(closed.logits, plain.logits, strict=True))


def test_no_hook_stays_on_a_layer_after_an_exception(layered: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs = layered.inputs(tiny_samples[:2])
    audio = layered.encode_audio([sample.audio for sample in tiny_samples[:2]])
    broken = dict(inputs) | {"pixel_values": inputs["pixel_values"][:1]}
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        layered.generate(broken, audio)
    assert [len(module._forward_pre_hooks) for module in (layered.stack, *layered.stack.layers)] == [0, 0, 0]


def test_gradients_reach_the_fusion_of_every_layer(tiny_config: ModelConfig, tiny_samples: list[Sample]) -> None:
    torch.manual_seed(4)
    model = SafeModel.attach(replace(tiny_config, fusion=replace(tiny_config.fusion, layers=(0, 1))))
    audio = model.encode_audio([sample.audio for sample in tiny_samples])
    model.forward(model.inputs(tiny_samples), audio, logits_to_keep=1).logits.square().mean().backward()
    assert isinstance(model.adapter.fusion, nn.ModuleList)
    for place in model.adapter.fusion:
        gradients = [parameter.grad for parameter in place.parameters() if parameter.requires_grad]
        assert any(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_layers_that_are_not_there_are_refused_at_attach(tiny_config: ModelConfig) -> None:
    with pytest.raises(ModelError, match=r"names layer 2, but the base's text stack has 2 layers; give .* from 0 to 1"):
        SafeModel.attach(replace(tiny_config, fusion=replace(tiny_config.fusion, layers=(0, 2))))


class _Stack(nn.Module):
    """A text stack in the manner of some family."""

    def __init__(self, name: str, width: int = 8) -> None:
        super().__init__()
        self.adapters = nn.ModuleList([nn.Identity()])  # another list
        self.add_module(name, nn.ModuleList([nn.Linear(width, width) for _ in range(3)]))
        self.config = type("Config", (), {"hidden_size": width})()


@pytest.mark.parametrize("name", ["layers", "h", "block", "blocks"])
def test_layers_are_found_under_the_names_that_families_give_them(name: str) -> None:
    stack = _Stack(name)
    assert list(text_layers(stack)) == list(getattr(stack, name))
    check_layers(stack, (0, 2), 8)


def test_a_stack_whose_layers_cannot_be_told_is_refused() -> None:
    with pytest.raises(ModelError, match=r"has no list of layers named layers, h, block, blocks; leave fusion\.layers"):
        text_layers(_Stack("towers"))


def test_layers_of_another_width_than_the_embeddings_are_refused() -> None:
    with pytest.raises(ModelError, match="the layers of the base's text stack are 8 wide, its embeddings 4"):
        check_layers(_Stack("layers"), (0,), 4)
