from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from supervised.data.sample import Sample
from supervised.encoders.features import AudioFeatures
from supervised.safe_model import SafeModel

Setting = tuple[SafeModel, Any, AudioFeatures]
Bits = Callable[[torch.Tensor], torch.Tensor]
SameBits = Callable[[Any, Any], bool]
BaseGenerate = Callable[[SafeModel, Any], Any]


# Generation is one function of prompt and audio, however it is computed.


def test_cached_and_uncached_decoding_agree(plain: Setting) -> None:
    model, inputs, audio = plain
    cached, uncached = model.generate(inputs, audio), model.generate(inputs, audio, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(cached.logits, uncached.logits, strict=True))


@torch.no_grad()
def test_teacher_forcing_with_labels_agrees_with_generation(plain: Setting) -> None:
    model, inputs, audio = plain
    output = model.generate(inputs, audio)
    length = inputs["input_ids"].shape[1]
    labels = output.sequences.clone()
    labels[:, :length] = -100
    attended = torch.cat([inputs["attention_mask"], torch.ones_like(labels[:, length:])], 1)
    whole = {**inputs, "input_ids": output.sequences, "attention_mask": attended}
    generated = torch.stack(output.logits, 1)  # (B, n, V)
    forced = model.forward({**whole, "labels": labels}, audio)
    assert torch.allclose(forced.logits[:, length - 1 : -1], generated, atol=2e-4)
    explicit = model.forward(whole, audio, prompt_mask=labels == -100)
    assert torch.equal(explicit.logits, forced.logits)
    everywhere = model.forward(whole, audio)  # the answer hears too: another function
    assert not torch.allclose(everywhere.logits[:, length - 1 : -1], generated, atol=1e-3)


@torch.no_grad()
def test_only_attended_prompt_positions_change(plain: Setting) -> None:
    model, inputs, audio = plain
    seen: list[torch.Tensor] = []
    handle = model.stack.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    prompt_mask = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    prompt_mask[:, -2:] = False
    model.forward(inputs)
    model.forward(inputs, audio, prompt_mask=prompt_mask)
    handle.remove()
    changed = (seen[0] != seen[1]).any(-1)  # (B, L)
    assert torch.equal(changed, prompt_mask & inputs["attention_mask"].bool() & audio.present[:, None])
    assert not inputs["attention_mask"].all()  # there was padding


def test_left_padding_does_not_change_an_answer(plain: Setting, tiny_samples: list[Sample]) -> None:
    model, inputs, audio = plain
    together = model.decode(model.generate(inputs, audio), inputs)
    for row in range(6):
        alone = model.inputs([tiny_samples[row]])
        assert model.decode(model.generate(alone, audio.rows([row])), alone) == [together[row]]


def test_beams_of_a_batch_are_those_of_its_rows(plain: Setting, tiny_samples: list[Sample]) -> None:
    model, inputs, audio = plain
    images = model.encode_images(inputs)
    together = model.decode(model.generate(inputs, audio, images=images, num_beams=3), inputs)
    assert model.decode(model.generate(inputs, audio, images=images, num_beams=3), inputs) == together
    for row in (0, 3, 4):
        alone = model.inputs([tiny_samples[row]])
        assert model.decode(model.generate(alone, audio.rows([row]), num_beams=3), alone) == [together[row]]


@torch.no_grad()
def test_gate_moves_continuously_from_the_base_to_full_audio(plain: Setting) -> None:
    model, inputs, audio = plain
    base = model.forward(inputs).logits
    distances = [(model.forward(inputs, audio, gate).logits - base).norm().item() for gate in (1e-4, 0.3, 1.0)]
    assert 0 < distances[0] < 0.01 * distances[2]
    assert distances[0] < distances[1] < distances[2]


# Pictures encoded once for both passes.


@torch.no_grad()
def test_shared_pictures_give_the_bits_of_the_pixel_path(setting: Setting, bits: Bits, same_bits: SameBits) -> None:
    model, inputs, audio = setting
    images = model.encode_images(inputs)
    for heard in (None, audio):
        pixels = model.forward(inputs, heard)
        shared = model.forward(inputs, heard, images=images)
        assert torch.equal(bits(shared.logits), bits(pixels.logits))
        assert same_bits(model.generate(inputs, heard, images=images), model.generate(inputs, heard))


def test_the_first_step_tells_logits_and_hidden_states_of_the_prompt(plain: Setting) -> None:
    model, inputs, _ = plain
    output = model.generate(inputs, output_hidden_states=True, max_new_tokens=2)
    states = model.forward(inputs, output_hidden_states=True).hidden_states
    assert len(output.logits) == 2
    assert output.hidden_states[0][-1].shape == (*inputs["input_ids"].shape, 32)
    assert torch.allclose(output.hidden_states[0][-1], states[-1], atol=1e-5)


@torch.no_grad()
def test_logits_can_be_limited_to_the_last_positions(plain: Setting) -> None:
    model, inputs, audio = plain
    last = model.forward(inputs, audio, logits_to_keep=3).logits
    assert torch.allclose(last, model.forward(inputs, audio).logits[:, -3:], atol=1e-6)


def test_questions_with_and_without_picture_share_a_batch(
    tiny_model: SafeModel, tiny_samples: list[Sample], same_bits: SameBits
) -> None:
    samples = [replace(tiny_samples[0], image=None), tiny_samples[1]]
    inputs = tiny_model.inputs(samples)
    audio = tiny_model.encode_audio([sample.audio for sample in samples])
    heard = tiny_model.generate(inputs, audio, images=tiny_model.encode_images(inputs))
    assert same_bits(heard, tiny_model.generate(inputs, audio))
    assert tiny_model.encode_images(tiny_model.inputs(samples[:1])) is None
