from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.encoders.features import AudioFeatures
from supervised.errors import ConfigError, DataError, ModelError
from supervised.safe_model import SafeModel

Setting = tuple[SafeModel, Any, AudioFeatures]
Bits = Callable[[torch.Tensor], torch.Tensor]
SameBits = Callable[[Any, Any], bool]
BaseGenerate = Callable[[SafeModel, Any], Any]


# Bypass: bit for bit the base.


@torch.no_grad()
def test_logits_without_audio_or_with_gate_zero_are_the_bases_bit_for_bit(setting: Setting, bits: Bits) -> None:
    model, inputs, audio = setting
    expected = bits(model.base(**inputs).logits)
    assert torch.equal(bits(model.forward(inputs).logits), expected)
    assert torch.equal(bits(model.forward(inputs, audio, gate=0.0).logits), expected)
    assert torch.equal(bits(model.forward(inputs, model.encode_audio([None] * 6)).logits), expected)


def test_answers_without_audio_or_with_gate_zero_are_the_bases_bit_for_bit(
    setting: Setting, same_bits: SameBits, base_generate: BaseGenerate
) -> None:
    model, inputs, audio = setting
    expected = base_generate(model, inputs)
    assert same_bits(model.generate(inputs), expected)
    assert same_bits(model.generate(inputs, audio, gate=0.0), expected)
    assert same_bits(model.generate(inputs, model.encode_audio([None] * 6)), expected)


@torch.no_grad()
def test_rows_without_audio_in_a_mixed_batch_are_the_bases_bit_for_bit(
    setting: Setting, bits: Bits, base_generate: BaseGenerate
) -> None:
    model, inputs, audio = setting
    expected, mixed = model.base(**inputs).logits, model.forward(inputs, audio).logits
    assert torch.equal(bits(mixed[4]), bits(expected[4]))
    for row in (0, 1, 2, 3, 5):
        assert not torch.equal(mixed[row], expected[row])
    base, heard = base_generate(model, inputs), model.generate(inputs, audio)
    assert torch.equal(heard.sequences[4], base.sequences[4])
    assert all(torch.equal(bits(a[4]), bits(b[4])) for a, b in zip(heard.logits, base.logits, strict=True))
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


def test_the_hook_is_gone_after_an_exception_inside_the_call(
    plain: Setting, same_bits: SameBits, base_generate: BaseGenerate
) -> None:
    model, inputs, audio = plain
    broken = dict(inputs) | {"pixel_values": inputs["pixel_values"][:3]}  # fewer pictures than placeholders
    hooks = len(model.stack._forward_pre_hooks)
    for call in (model.forward, model.generate):
        with pytest.raises(ValueError, match="Image features and image tokens do not match"):
            call(broken, audio)
        assert len(model.stack._forward_pre_hooks) == hooks
    assert same_bits(model.generate(inputs), base_generate(model, inputs))


def test_a_call_has_no_memory_of_the_one_before(
    plain: Setting, same_bits: SameBits, base_generate: BaseGenerate
) -> None:
    model, inputs, audio = plain
    first = model.generate(inputs, audio)
    other = audio.rows([5, 3, 1, 0, 2, 4])
    assert not torch.equal(model.generate(inputs, other).sequences, first.sequences)
    assert same_bits(model.generate(inputs), base_generate(model, inputs))
    assert same_bits(model.generate(inputs, audio), first)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads interrupt each other all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_on_one_model_get_the_answers_to_their_own_audio(plain: Setting, same_bits: SameBits) -> None:
    model, inputs, audio = plain
    clips = [audio, None, audio.rows([3, 2, 1, 0, 5, 4])]
    expected = [model.generate(inputs, clip) for clip in clips]
    results: list[list[bool]] = [[] for _ in clips]

    def ask(i: int) -> None:
        for _ in range(8):
            results[i].append(same_bits(model.generate(inputs, clips[i]), expected[i]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[True] * 8] * 3
    assert len(model.stack._forward_pre_hooks) == 0


# What is refused.


@pytest.mark.parametrize("gate", [-0.1, 1.5, float("nan"), torch.tensor(0.5), "1"])
def test_a_gate_that_is_no_number_from_0_to_1_is_refused(plain: Setting, gate: Any) -> None:
    model, inputs, audio = plain
    for call in (model.forward, model.generate):
        with pytest.raises(ConfigError, match=r"gate must be a number in \[0, 1\], got .*; 0 is the base alone"):
            call(inputs, audio, gate)


@pytest.mark.parametrize("given", [{"max_new_tokens": 0}, {"max_new_tokens": 1.5}, {"num_beams": 0}])
def test_no_token_and_no_beam_are_refused(plain: Setting, given: dict[str, Any]) -> None:
    model, inputs, audio = plain
    for heard in (None, audio):
        with pytest.raises(ConfigError, match=rf"^{min(given)} must be a whole number of at least 1, got [0-9.]+; use"):
            model.generate(inputs, heard, **given)


def test_what_is_neither_inputs_nor_features_is_refused(plain: Setting, tiny_samples: list[Sample]) -> None:
    model, inputs, _ = plain
    clip: Any = tiny_samples[0].audio
    for call in (model.forward, model.generate):
        with pytest.raises(
            ModelError, match=r"audio must be what SafeModel\.encode_audio\(clips\) returns, got Waveform"
        ):
            call(inputs, clip)
        with pytest.raises(ModelError, match=r"hold no input_ids; give what SafeModel\.inputs\(samples\) returns"):
            call({})
    for one in (clip, Path("clip.wav"), "clip.wav"):
        with pytest.raises(DataError, match=r"one clip was given where a list of clips belongs, .*; write \[clip\]\.$"):
            model.encode_audio(one)  # type: ignore[arg-type]


def test_a_text_is_no_list_of_encoders_and_no_yes() -> None:
    words: Any = "false"
    with pytest.raises(ConfigError, match=r"model\.more_encoders must be a list, got 'false'"):
        ModelConfig(more_encoders=words)
    with pytest.raises(ConfigError, match=r"model\.trust_remote_code must be true or false, got 'false'"):
        ModelConfig(trust_remote_code=words)


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


def test_an_adapter_that_is_loaded_with_another_source_forgets_the_commit_of_the_old_one(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = replace(tiny_config, base_revision="b1", encoder_revision="e1")  # folders have none, so nothing asks
    SafeModel.attach(config).save_pretrained(tmp_path / "adapter")

    def revisions(**given: Any) -> tuple[str | None, str | None]:
        loaded = SafeModel.from_pretrained(tmp_path / "adapter", **given).config
        return loaded.base_revision, loaded.encoder_revision

    base = str(shutil.copytree(tiny_config.base, tmp_path / "base"))
    encoder = str(shutil.copytree(tiny_config.encoder, tmp_path / "encoder"))
    assert revisions() == revisions(base=tiny_config.base, encoder=tiny_config.encoder) == ("b1", "e1")
    assert revisions(base=base) == (None, "e1")
    assert revisions(encoder=encoder) == ("b1", None)


def test_heads_that_do_not_divide_the_width_are_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises(ModelError, match=r"fusion\.heads = 5 does not divide the base's embedding width 32"):
        SafeModel.attach(replace(tiny_config, fusion=replace(tiny_config.fusion, heads=5)))


def test_model_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype must be auto, float32 or bfloat16, got float16"):
        ModelConfig(dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model\.base is empty; give a folder"):
        ModelConfig(base="")


@torch.no_grad()
def test_a_caller_who_compiles_hears_after_a_call_without_audio(
    tiny_model: SafeModel, tiny_samples: list[Sample]
) -> None:
    inputs = tiny_model.inputs(tiny_samples)
    audio = tiny_model.encode_audio([sample.audio for sample in tiny_samples])
    expected = tiny_model.forward(inputs, audio).logits
    compiled = torch.compile(lambda *given: tiny_model.forward(inputs, *given).logits, backend="eager")
    plain = compiled()
    assert torch.equal(compiled(audio), expected)
    assert torch.equal(compiled(), plain)
    assert not torch.equal(plain, expected)
