from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from supervised.base import weights_sha256
from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.encoder import AudioFeatures
from supervised.errors import ConfigError, DataError, ModelError
from supervised.safe_model import SafeModel

DTYPES = ("float32", "bfloat16")
Setting = tuple[SafeModel, Any, AudioFeatures]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def _same_bits(first: Any, second: Any) -> bool:
    """Equal ids and, at every step, logits that are equal as integers."""
    return torch.equal(first.sequences, second.sequences) and all(
        torch.equal(_bits(a), _bits(b)) for a, b in zip(first.logits, second.logits, strict=True)
    )


def _base_generate(model: SafeModel, inputs: Any) -> Any:
    return model.base.generate(
        **inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, output_logits=True
    )


@pytest.fixture(scope="module", params=DTYPES)
def setting(request: pytest.FixtureRequest, tiny_config: ModelConfig, tiny_samples: list[Sample]) -> Setting:
    """Model, inputs and audio of all samples (row 4 has none), in either dtype."""
    torch.manual_seed(4)
    model = SafeModel.attach(replace(tiny_config, dtype=request.param))
    assert model.base.dtype == getattr(torch, request.param)
    return model, model.inputs(tiny_samples), model.encode_audio([sample.audio for sample in tiny_samples])


@pytest.fixture
def plain(tiny_model: SafeModel, tiny_samples: list[Sample]) -> Setting:
    """The same in float32 only."""
    audio = tiny_model.encode_audio([sample.audio for sample in tiny_samples])
    return tiny_model, tiny_model.inputs(tiny_samples), audio


@pytest.fixture
def fresh(tiny_config: ModelConfig) -> SafeModel:
    """A model to train."""
    torch.manual_seed(4)
    return SafeModel.attach(tiny_config)


# Token budgets: a prefix of the audio tokens.


@torch.no_grad()
def test_a_budget_is_the_adapter_that_has_only_so_many_tokens(plain: Setting, tiny_config: ModelConfig) -> None:
    model, inputs, audio = plain
    few = SafeModel.attach(replace(tiny_config, projector=replace(tiny_config.projector, tokens=4)))
    state = model.adapter.state_dict()
    for name in ("projector.queries", "projector.codes"):
        state[name] = state[name][:4]
    few.adapter.load_state_dict(state)
    torch.testing.assert_close(
        model.forward(inputs, audio, budget=4).logits, few.forward(inputs, audio).logits, rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_all_tokens_are_the_largest_budget_and_smaller_ones_say_something_else(plain: Setting) -> None:
    model, inputs, audio = plain
    every = model.forward(inputs, audio).logits
    assert torch.equal(_bits(model.forward(inputs, audio, budget=8).logits), _bits(every))
    less = model.forward(inputs, audio, budget=1).logits
    assert not torch.allclose(less[:4], every[:4], atol=1e-3)
    assert torch.equal(_bits(less[4]), _bits(every[4]))  # the row without audio


@torch.no_grad()
def test_tokens_made_before_give_what_tokens_made_on_the_way_give(plain: Setting) -> None:
    model, inputs, audio = plain
    made = model.project(audio)
    assert made.spoken is not None
    assert made.spoken.shape == (6, 8, 32)
    for budget in (None, 1, 4):
        torch.testing.assert_close(
            model.forward(inputs, made, budget=budget).logits, model.forward(inputs, audio, budget=budget).logits
        )
    rows = model.generate({name: value[:3] for name, value in inputs.items()}, made.rows([0, 1, 2]), num_beams=2)
    assert len(rows.sequences) == 3


def test_with_a_budget_and_gate_zero_answers_are_the_bases_bit_for_bit(setting: Setting) -> None:
    model, inputs, audio = setting
    assert _same_bits(model.generate(inputs, audio, gate=0.0, budget=4), _base_generate(model, inputs))


@pytest.mark.parametrize("budget", [0, 9, 4.0])
def test_a_budget_that_is_no_number_of_tokens_is_refused(plain: Setting, budget: Any) -> None:
    model, inputs, audio = plain
    with pytest.raises(ConfigError, match=r"budget must be a number of audio tokens from 1 to 8, got"):
        model.generate(inputs, audio, budget=budget)


# Bypass: bit for bit the base.


@torch.no_grad()
def test_logits_without_audio_or_with_gate_zero_are_the_bases_bit_for_bit(setting: Setting) -> None:
    model, inputs, audio = setting
    expected = _bits(model.base(**inputs).logits)
    assert torch.equal(_bits(model.forward(inputs).logits), expected)
    assert torch.equal(_bits(model.forward(inputs, audio, gate=0.0).logits), expected)
    assert torch.equal(_bits(model.forward(inputs, model.encode_audio([None] * 6)).logits), expected)


def test_answers_without_audio_or_with_gate_zero_are_the_bases_bit_for_bit(setting: Setting) -> None:
    model, inputs, audio = setting
    expected = _base_generate(model, inputs)
    assert _same_bits(model.generate(inputs), expected)
    assert _same_bits(model.generate(inputs, audio, gate=0.0), expected)
    assert _same_bits(model.generate(inputs, model.encode_audio([None] * 6)), expected)


@torch.no_grad()
def test_rows_without_audio_in_a_mixed_batch_are_the_bases_bit_for_bit(setting: Setting) -> None:
    model, inputs, audio = setting
    expected, mixed = model.base(**inputs).logits, model.forward(inputs, audio).logits
    assert torch.equal(_bits(mixed[4]), _bits(expected[4]))
    for row in (0, 1, 2, 3, 5):
        assert not torch.equal(mixed[row], expected[row])
    base, heard = _base_generate(model, inputs), model.generate(inputs, audio)
    assert torch.equal(heard.sequences[4], base.sequences[4])
    assert all(torch.equal(_bits(a[4]), _bits(b[4])) for a, b in zip(heard.logits, base.logits, strict=True))
    assert not torch.equal(heard.sequences, base.sequences)  # the others did hear


def test_the_bases_dtype_stays_and_the_adapter_is_float32(setting: Setting) -> None:
    model, inputs, audio = setting
    assert model.forward(inputs, audio).logits.dtype == model.base.dtype
    assert {parameter.dtype for parameter in model.adapter.parameters()} == {torch.float32}


def test_without_audio_no_hook_is_registered(plain: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, audio = plain
    monkeypatch.setattr(model.stack, "register_forward_pre_hook", lambda *_, **__: pytest.fail("a hook"))
    model.generate(inputs)
    model.forward(inputs, audio, gate=0.0)
    with pytest.raises(pytest.fail.Exception):
        model.forward(inputs, audio, gate=0.5)


# One call leaves nothing behind.


def test_the_hook_is_gone_after_an_exception_inside_the_call(plain: Setting) -> None:
    model, inputs, audio = plain
    broken = dict(inputs) | {"pixel_values": inputs["pixel_values"][:3]}  # fewer pictures than placeholders
    hooks = len(model.stack._forward_pre_hooks)
    for call in (model.forward, model.generate):
        with pytest.raises(ValueError, match="Image features and image tokens do not match"):
            call(broken, audio)
        assert len(model.stack._forward_pre_hooks) == hooks
    assert _same_bits(model.generate(inputs), _base_generate(model, inputs))


def test_a_call_has_no_memory_of_the_one_before(plain: Setting) -> None:
    model, inputs, audio = plain
    first = model.generate(inputs, audio)
    other = audio.rows([5, 3, 1, 0, 2, 4])
    assert not torch.equal(model.generate(inputs, other).sequences, first.sequences)
    assert _same_bits(model.generate(inputs), _base_generate(model, inputs))
    assert _same_bits(model.generate(inputs, audio), first)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads interrupt each other all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_on_one_model_get_the_answers_to_their_own_audio(plain: Setting) -> None:
    model, inputs, audio = plain
    clips = [audio, None, audio.rows([3, 2, 1, 0, 5, 4])]
    expected = [model.generate(inputs, clip) for clip in clips]
    results: list[list[bool]] = [[] for _ in clips]

    def ask(i: int) -> None:
        for _ in range(8):
            results[i].append(_same_bits(model.generate(inputs, clips[i]), expected[i]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[True] * 8] * 3
    assert len(model.stack._forward_pre_hooks) == 0


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
def test_shared_pictures_give_the_bits_of_the_pixel_path(setting: Setting) -> None:
    model, inputs, audio = setting
    images = model.encode_images(inputs)
    for heard in (None, audio):
        pixels = model.forward(inputs, heard)
        shared = model.forward(inputs, heard, images=images)
        assert torch.equal(_bits(shared.logits), _bits(pixels.logits))
        assert _same_bits(model.generate(inputs, heard, images=images), model.generate(inputs, heard))


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


def test_questions_with_and_without_picture_share_a_batch(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    samples = [replace(tiny_samples[0], image=None), tiny_samples[1]]
    inputs = tiny_model.inputs(samples)
    audio = tiny_model.encode_audio([sample.audio for sample in samples])
    heard = tiny_model.generate(inputs, audio, images=tiny_model.encode_images(inputs))
    assert _same_bits(heard, tiny_model.generate(inputs, audio))
    assert tiny_model.encode_images(tiny_model.inputs(samples[:1])) is None


# Training.


def _train(model: SafeModel, samples: list[Sample], steps: int, lr: float) -> list[float]:
    """Teach the model to name the sound of four samples; the base knows nothing about them."""
    samples = samples[:4]
    inputs, audio = model.inputs(samples), model.encode_audio([sample.audio for sample in samples])
    words = model.processor.tokenizer.convert_tokens_to_ids(["dog", "rain", "sea", "clock"])
    trained = [parameter for parameter in model.adapter.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr)
    losses = []
    for _ in range(steps):
        logits = model.forward(inputs, audio, logits_to_keep=1).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(words))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_gradients_reach_every_part_of_the_adapter_and_nothing_else(
    fresh: SafeModel, tiny_samples: list[Sample]
) -> None:
    before = weights_sha256(fresh.base)
    frozen = {name: p.clone() for name, p in fresh.adapter.named_parameters() if not p.requires_grad}
    _train(fresh, tiny_samples, steps=2, lr=1e-3)
    for name, parameter in fresh.adapter.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert torch.equal(parameter, frozen[name])
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name  # LoRA's A gets its first one in step 2
    assert all(parameter.grad is None for parameter in fresh.base.parameters())
    assert all(parameter.grad is None for parameter in fresh.encoder.parameters())
    assert weights_sha256(fresh.base) == before == fresh.fit.base_sha256


def test_training_teaches_the_frozen_base_to_name_sounds(fresh: SafeModel, tiny_samples: list[Sample]) -> None:
    losses = _train(fresh, tiny_samples, steps=60, lr=1e-2)
    assert losses[-1] < 0.2 < 2.0 < losses[0]
    samples = tiny_samples[:4]
    inputs, audio = fresh.inputs(samples), fresh.encode_audio([sample.audio for sample in samples])
    assert fresh.decode(fresh.generate(inputs, audio, max_new_tokens=1), inputs) == ["dog", "rain", "sea", "clock"]
    assert _same_bits(fresh.generate(inputs), _base_generate(fresh, inputs))


def test_attaching_with_the_same_seed_gives_the_same_adapter(tiny_config: ModelConfig) -> None:
    hashes = set()
    for _ in range(2):
        torch.manual_seed(11)
        hashes.add(SafeModel.attach(tiny_config).fingerprint()["adapter"])
    assert len(hashes) == 1


# What is refused.


@pytest.mark.parametrize("gate", [-0.1, 1.5, float("nan"), torch.tensor(0.5), "1"])
def test_a_gate_that_is_no_number_from_0_to_1_is_refused(plain: Setting, gate: Any) -> None:
    model, inputs, audio = plain
    for call in (model.forward, model.generate):
        with pytest.raises(ConfigError, match=r"gate must be a number in \[0, 1\], got .*; 0 is the base alone"):
            call(inputs, audio, gate)


def test_another_number_of_clips_than_questions_is_refused(plain: Setting) -> None:
    model, inputs, audio = plain
    with pytest.raises(ModelError, match="5 audio rows for 6 questions; give one per question, None for none"):
        model.generate(inputs, audio.rows(slice(5)))


def test_a_prompt_mask_of_another_shape_is_refused(plain: Setting) -> None:
    model, inputs, audio = plain
    with pytest.raises(ModelError, match=r"prompt_mask has shape \[6, 3\]"):
        model.forward(inputs, audio, prompt_mask=torch.ones(6, 3, dtype=torch.bool))


def test_no_question_is_refused(tiny_model: SafeModel) -> None:
    with pytest.raises(DataError, match="no sample was given"):
        tiny_model.inputs([])


@pytest.mark.parametrize("token", ["<image>", "</s>"])
def test_a_question_cannot_smuggle_special_tokens(
    tiny_model: SafeModel, tiny_samples: list[Sample], token: str
) -> None:
    sample = replace(tiny_samples[0], question=f"what {token} is it ?")
    with pytest.raises(DataError, match=f"sample 'a0': the question contains '{token}', a special token"):
        tiny_model.inputs([sample])


def test_a_device_that_is_not_there_is_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=r"model\.device is 'cuda:99', which this machine does not have"):
        SafeModel.attach(replace(tiny_config, device="cuda:99"))


def test_heads_that_do_not_divide_the_width_are_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises(ModelError, match=r"fusion\.heads = 5 does not divide the base's embedding width 32"):
        SafeModel.attach(replace(tiny_config, fusion=replace(tiny_config.fusion, heads=5)))


def test_model_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype must be auto, float32 or bfloat16, got float16"):
        ModelConfig(dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model\.base is empty; give a folder"):
        ModelConfig(base="")
