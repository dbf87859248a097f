from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from supervised.adapter_files import INDEX
from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample
from supervised.encoders.features import AudioFeatures
from supervised.errors import ConfigError, ModelError
from supervised.files import sha256_file
from supervised.fusion.load import new_fusion
from supervised.safe_model import SafeModel

Setting = tuple[SafeModel, Any, AudioFeatures]
INSERTED = 10
"""Eight audio tokens and two markers."""


@pytest.fixture(scope="module")
def setting(tiny_config: ModelConfig, tiny_samples: list[Sample]) -> Setting:
    """The tiny models with audio tokens as words; row 4 has no audio, row 6 no picture."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = SafeModel.attach(replace(tiny_config, fusion=FusionConfig(injection="tokens")))
    samples = [*tiny_samples, replace(tiny_samples[0], image=None)]
    return model, model.inputs(samples), model.encode_audio([sample.audio for sample in samples])


def _close(first: Any, second: Any) -> bool:
    return torch.equal(first.sequences, second.sequences) and all(
        torch.allclose(a, b, atol=2e-4) for a, b in zip(first.logits, second.logits, strict=True)
    )


@torch.no_grad()
def test_audio_tokens_stand_after_the_picture_or_after_the_first_token(setting: Setting) -> None:
    model, inputs, audio = setting
    seen: list[torch.Tensor] = []
    handle = model.stack.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.forward(inputs)
    model.forward(inputs, audio)
    handle.remove()
    tokens, _ = model.adapter.tokens(audio)  # (B, 10, D)
    for row, ids in enumerate(inputs["input_ids"]):
        pictures = (ids == 4).nonzero()
        at = int(pictures.max()) + 1 if len(pictures) else int(inputs["attention_mask"][row].argmax()) + 1
        assert torch.equal(seen[1][row, :at], seen[0][row, :at])
        assert torch.equal(seen[1][row, at : at + INSERTED], tokens[row])
        assert torch.equal(seen[1][row, at + INSERTED :], seen[0][row, at:])


@torch.no_grad()
def test_inserted_tokens_are_a_prompt_with_so_many_words_more(setting: Setting) -> None:
    """The reference is written by hand: one row, its embeddings cut open, its audio put in between."""
    model, inputs, audio = setting
    row = 6
    begin = int(inputs["attention_mask"][row].argmax())
    words = model.base.get_input_embeddings()(inputs["input_ids"][row, begin:])  # (P, D)
    tokens, _ = model.adapter.tokens(audio.rows([row]))
    expected = model.stack(inputs_embeds=torch.cat([words[:1], tokens[0], words[1:]])[None])
    logits = model.base.lm_head(expected.last_hidden_state)[0, -1]
    assert torch.allclose(model.forward(inputs, audio).logits[row, -1], logits, atol=1e-4)


def test_answers_come_back_behind_the_callers_prompts(setting: Setting) -> None:
    model, inputs, audio = setting
    heard, plain = model.generate(inputs, audio), model.generate(inputs)
    assert torch.equal(heard.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert heard.sequences.shape[1] <= plain.sequences.shape[1]
    assert model.decode(heard, inputs) != model.decode(plain, inputs)


def test_without_audio_or_with_gate_zero_nothing_is_inserted(setting: Setting) -> None:
    model, inputs, audio = setting
    plain = model.base.generate(
        **inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    for output in (model.generate(inputs), model.generate(inputs, audio, gate=0.0)):
        assert torch.equal(output.sequences, plain.sequences)
        assert all(torch.equal(a, b) for a, b in zip(output.logits, plain.logits, strict=True))


def test_rows_without_audio_in_a_mixed_batch_answer_as_the_base_does(setting: Setting) -> None:
    model, inputs, audio = setting
    heard, plain = model.generate(inputs, audio), model.generate(inputs)
    assert torch.equal(heard.sequences[4], plain.sequences[4])
    assert all(torch.allclose(a[4], b[4], atol=1e-4) for a, b in zip(heard.logits, plain.logits, strict=True))


def test_cached_uncached_and_kept_prefix_agree(setting: Setting) -> None:
    model, inputs, audio = setting
    cached = model.generate(inputs, audio)
    assert _close(model.generate(inputs, audio, use_cache=False), cached)
    prefix = model.keep_prefix(inputs, model.generate(inputs))
    assert prefix is not None
    assert not prefix.even
    assert _close(model.generate(inputs, audio, prefix=prefix), cached)


def test_a_batch_answers_as_its_rows_do_with_and_without_beams(setting: Setting, tiny_samples: list[Sample]) -> None:
    model, inputs, audio = setting
    for beams in (1, 3):
        together = model.decode(model.generate(inputs, audio, num_beams=beams), inputs)
        for row in (0, 3, 4):
            alone = model.inputs([tiny_samples[row]])
            heard = model.generate(alone, audio.rows([row]), num_beams=beams)
            assert model.decode(heard, alone) == [together[row]]


@torch.no_grad()
def test_logits_and_hidden_states_come_back_in_the_callers_columns(setting: Setting) -> None:
    model, inputs, audio = setting
    length = inputs["input_ids"].shape[1]
    whole = model.forward(inputs, audio, output_hidden_states=True)
    assert whole.logits.shape[1] == length
    assert {states.shape[1] for states in whole.hidden_states} == {length}
    for last in (1, 3, length - 2, length):
        kept = model.forward(inputs, audio, logits_to_keep=last).logits
        real = inputs["attention_mask"][:, -last:].bool()
        assert torch.allclose(kept[real], whole.logits[:, -last:][real], atol=1e-4)
    prompt = model.generate(inputs, audio, output_hidden_states=True, max_new_tokens=2).hidden_states[0][-1]
    real = inputs["attention_mask"].bool()
    assert torch.allclose(prompt[real], whole.hidden_states[-1][real], atol=1e-4)


@torch.no_grad()
def test_teacher_forcing_agrees_with_generation_and_has_the_loss_of_the_answer(setting: Setting) -> None:
    model, inputs, audio = setting
    output = model.generate(inputs, audio)
    length = inputs["input_ids"].shape[1]
    labels = output.sequences.clone()
    labels[:, :length] = -100
    attended = torch.cat([inputs["attention_mask"], torch.ones_like(labels[:, length:])], 1)
    whole = {**inputs, "input_ids": output.sequences, "attention_mask": attended, "labels": labels}
    forced = model.forward(whole, audio)
    generated = torch.stack(output.logits, 1)  # (B, n, V)
    assert torch.allclose(forced.logits[:, length - 1 : -1], generated, atol=2e-4)
    expected = torch.nn.functional.cross_entropy(generated.flatten(0, 1), labels[:, length:].flatten())
    assert torch.allclose(forced.loss, expected, atol=1e-4)


def test_gradients_reach_projector_and_markers_and_not_the_base(setting: Setting) -> None:
    model, inputs, audio = setting
    model.forward(inputs, audio, logits_to_keep=1).logits.square().mean().backward()
    for name, parameter in [*model.adapter.projector.named_parameters(), ("markers", model.adapter.markers)]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    model.adapter.zero_grad()
    assert all(parameter.grad is None for parameter in model.base.parameters())


@torch.no_grad()
def test_tokens_fade_in_from_the_embedding_they_replace(setting: Setting) -> None:
    model, inputs, audio = setting
    seen: list[torch.Tensor] = []
    handle = model.stack.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.forward(inputs, audio, gate=0.25)
    handle.remove()
    tokens, _ = model.adapter.tokens(audio)
    at = int((inputs["input_ids"][0] == 4).nonzero().max()) + 1
    nothing = model.base.get_input_embeddings().weight[0]  # the padding token
    assert torch.allclose(seen[0][0, at : at + INSERTED], 0.25 * tokens[0] + 0.75 * nothing, atol=1e-6)


def test_a_budget_inserts_fewer_tokens(setting: Setting) -> None:
    model, inputs, audio = setting
    columns: list[int] = []
    handle = model.stack.register_forward_pre_hook(
        lambda _, __, kwargs: columns.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    for budget in (None, 3):
        model.generate(inputs, audio, budget=budget, max_new_tokens=1)
    handle.remove()
    length = inputs["input_ids"].shape[1]
    assert columns == [length + INSERTED, length + 5]


def test_an_older_adapter_with_an_unused_fusion_answers_as_the_one_without(setting: Setting, tmp_path: Path) -> None:
    model, inputs, audio = setting
    model.save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    assert not any(name.startswith("fusion") for name in load_file(weights))
    unused = new_fusion(FusionConfig(), 32, 1.0).state_dict()
    save_file(load_file(weights) | {f"fusion.{name}": tensor for name, tensor in unused.items()}, weights)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weights"]["sha256"] = sha256_file(weights)
    index["config"]["fusion"] |= {"kind": "lora", "heads": 3}  # other defaults, or settings that had no effect
    (tmp_path / INDEX).write_text(json.dumps(index))
    older = SafeModel.from_pretrained(tmp_path)
    assert older.fingerprint() == model.fingerprint()
    assert torch.equal(older.generate(inputs, audio).logits[0], model.generate(inputs, audio).logits[0])


def test_columns_named_one_by_one_are_refused(setting: Setting) -> None:
    model, inputs, audio = setting
    with pytest.raises(ModelError, match="with inserted audio tokens logits_to_keep must be a number"):
        model.forward(inputs, audio, logits_to_keep=torch.tensor([3, 4]))


def test_settings_that_contradict_inserted_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"fusion\.injection must be residual or tokens, got prefix"):
        FusionConfig(injection="prefix")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fusion\.layers is \[1\], but inserted tokens pass no fusion; leave"):
        FusionConfig(injection="tokens", layers=(1,))
