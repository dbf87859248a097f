from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample
from supervised.encoders.features import AudioFeatures
from supervised.errors import ConfigError, ModelError
from supervised.prefix import Prefix
from supervised.safe_model import SafeModel

Parts = tuple[Any, AudioFeatures]


@pytest.fixture(scope="module")
def model(tiny_config: ModelConfig) -> SafeModel:
    """The tiny models, with fusion after the picture only."""
    return _attach(tiny_config, scope="suffix")


def _attach(config: ModelConfig, **fusion: Any) -> SafeModel:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return SafeModel.attach(replace(config, fusion=replace(config.fusion, **fusion)))


def _parts(model: SafeModel, samples: list[Sample]) -> Parts:
    return model.inputs(samples), model.encode_audio([sample.audio for sample in samples])


def _kept(model: SafeModel, inputs: Any, **options: Any) -> Prefix:
    prefix = model.keep_prefix(inputs, model.generate(inputs, **options))
    assert prefix is not None
    return prefix


def _close(first: Any, second: Any) -> bool:
    """Equal ids, and logits that differ in the last bits only."""
    return torch.equal(first.sequences, second.sequences) and all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(first.logits, second.logits, strict=True)
    )


def _columns(model: SafeModel) -> list[int]:
    """Let the text stack tell how many columns each of its calls had."""
    seen: list[int] = []

    def count(_: Any, __: Any, kwargs: Any) -> None:
        seen.append(kwargs["inputs_embeds"].shape[1])

    model.stack.register_forward_pre_hook(count, with_kwargs=True, prepend=True)
    return seen


# Scope suffix.


@torch.no_grad()
def test_only_positions_after_the_picture_hear(model: SafeModel, tiny_samples: list[Sample]) -> None:
    samples = [*tiny_samples[:3], replace(tiny_samples[3], image=None)]
    inputs, audio = _parts(model, samples)
    seen: list[torch.Tensor] = []
    handle = model.stack.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.forward(inputs)
    model.forward(inputs, audio)
    handle.remove()
    changed = (seen[0] != seen[1]).any(-1)  # (B, L)
    ids, attended = inputs["input_ids"], inputs["attention_mask"].bool()
    pictures = (ids == 4).flip(1).cumsum(1).flip(1) > 0  # a picture's token stands here or later
    assert torch.equal(changed, attended & ~pictures)
    assert changed[3].sum() == attended[3].sum()  # without a picture everything is question


# A kept prefix.


def test_a_kept_prefix_gives_the_answers_of_a_whole_pass(model: SafeModel, tiny_samples: list[Sample]) -> None:
    for sample in tiny_samples[:4]:
        inputs, audio = _parts(model, [sample])
        whole = model.generate(inputs, audio)
        assert _close(model.generate(inputs, audio, prefix=_kept(model, inputs)), whole)


def test_with_a_kept_prefix_the_stack_reads_the_question_only(tiny_config: ModelConfig, tiny_samples: Any) -> None:
    model = _attach(tiny_config, scope="suffix")
    inputs, audio = _parts(model, tiny_samples[:1])
    prefix = _kept(model, inputs)
    seen = _columns(model)
    model.generate(inputs, audio, prefix=prefix, max_new_tokens=2)
    length, picture = inputs["input_ids"].shape[1], int((inputs["input_ids"][0] == 4).nonzero().max()) + 1
    assert seen == [length - picture, 1]


def test_rows_of_one_length_share_a_prefix(model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs, audio = _parts(model, tiny_samples[:2])
    prefix = _kept(model, inputs)
    assert prefix.even
    assert _close(model.generate(inputs, audio, prefix=prefix), model.generate(inputs, audio))


def test_left_padded_rows_with_questions_of_other_lengths_share_a_prefix(
    model: SafeModel, tiny_samples: list[Sample]
) -> None:
    samples = [*tiny_samples, replace(tiny_samples[0], image=None)]  # row 4 has no audio, row 6 no picture
    inputs, audio = _parts(model, samples)
    prefix = _kept(model, inputs)
    assert not prefix.even
    heard = model.generate(inputs, audio, prefix=prefix)
    assert _close(heard, model.generate(inputs, audio))
    assert torch.equal(heard.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    for row, sample in enumerate(samples):
        alone = model.inputs([sample])
        answer = model.decode(model.generate(alone, audio.rows([row])), alone)
        assert model.decode(heard, inputs)[row] == answer[0]


@pytest.mark.parametrize("rows", [slice(2), slice(4)])
def test_beams_go_on_from_a_kept_prefix(model: SafeModel, tiny_samples: list[Sample], rows: slice) -> None:
    inputs, audio = _parts(model, tiny_samples[rows])
    expected = model.generate(inputs, audio, num_beams=3)
    for beams in (1, 3):  # the plain pass may have had beams of its own
        prefix = _kept(model, inputs, num_beams=beams)
        found = model.generate(inputs, audio, num_beams=3, prefix=prefix)
        assert torch.equal(found.sequences, expected.sequences)


def test_beams_that_went_on_longer_than_the_best_of_them_leave_a_prefix(
    model: SafeModel, tiny_samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, _ = _parts(model, tiny_samples[:2])
    first = model.generate(inputs, max_new_tokens=1).sequences[:, -1].tolist()
    monkeypatch.setattr(model.base.generation_config, "eos_token_id", first)  # the best beams end at once
    plain = model.generate(inputs, num_beams=3)
    assert plain.past_key_values.get_seq_length() > plain.sequences.shape[1] - 1
    assert model.keep_prefix(inputs, plain) is not None


def test_one_prefix_serves_several_calls(model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs, audio = _parts(model, tiny_samples[:2])
    prefix = _kept(model, inputs)
    first = model.generate(inputs, audio, prefix=prefix)
    model.generate(inputs, audio.rows([1, 0]), prefix=prefix, num_beams=2)
    again = model.generate(inputs, audio, prefix=prefix)
    assert torch.equal(first.sequences, again.sequences)
    assert all(torch.equal(a, b) for a, b in zip(first.logits, again.logits, strict=True))


def test_without_audio_or_with_gate_zero_a_prefix_is_passed_over(model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs, audio = _parts(model, tiny_samples[:2])
    prefix, plain = _kept(model, inputs), model.generate(inputs)
    for output in (model.generate(inputs, prefix=prefix), model.generate(inputs, audio, gate=0.0, prefix=prefix)):
        assert all(torch.equal(a, b) for a, b in zip(output.logits, plain.logits, strict=True))


def test_prompts_without_a_picture_have_no_prefix(model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs = model.inputs([replace(tiny_samples[0], image=None)])
    assert model.keep_prefix(inputs, model.generate(inputs)) is None


def test_layers_hear_with_a_kept_prefix_as_in_a_whole_pass(
    tiny_config: ModelConfig, tiny_samples: list[Sample]
) -> None:
    model = _attach(tiny_config, scope="suffix", layers=(0, 1))
    inputs, audio = _parts(model, tiny_samples)
    assert _close(model.generate(inputs, audio, prefix=_kept(model, inputs)), model.generate(inputs, audio))


def test_threads_go_on_from_one_prefix_with_their_own_audio(tiny_config: ModelConfig, tiny_samples: Any) -> None:
    model = _attach(tiny_config, scope="suffix", layers=(0, 1))
    inputs, audio = _parts(model, tiny_samples[:3])
    prefix = _kept(model, inputs)
    clips = [audio, None, audio.rows([2, 0, 1])]
    expected = [model.generate(inputs, clip, prefix=prefix) for clip in clips]
    assert not torch.equal(expected[0].logits[0], expected[2].logits[0])
    results: list[list[bool]] = [[] for _ in clips]

    def ask(i: int) -> None:
        for _ in range(6):
            output = model.generate(inputs, clips[i], prefix=prefix)
            results[i].append(all(map(torch.equal, output.logits, expected[i].logits)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads interrupt each other all the time
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert results == [[True] * 6] * 3
    assert sum(len(module._forward_pre_hooks) for module in model.base.modules()) == 0


# What is refused.


def test_a_prefix_that_hears_is_not_kept(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs = tiny_model.inputs(tiny_samples[:1])
    with pytest.raises(ModelError, match=r"cannot keep a prefix: with fusion\.scope prompt .* hear, too; use suffix"):
        tiny_model.keep_prefix(inputs, tiny_model.generate(inputs))


def test_a_prefix_of_other_prompts_is_refused(model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs, audio = _parts(model, tiny_samples[:1])
    prefix = _kept(model, model.inputs(tiny_samples[2:3]))
    with pytest.raises(ModelError, match="the prefix was kept for other prompts or pictures; keep one for these"):
        model.generate(inputs, audio, prefix=prefix)


def test_a_prefix_of_another_picture_or_mask_is_refused_though_the_words_are_the_same(
    model: SafeModel, tiny_samples: list[Sample]
) -> None:
    inputs, audio = _parts(model, tiny_samples[:1])
    prefix = _kept(model, inputs)
    masked = inputs["attention_mask"].clone()
    masked[0, 1] = 0
    for other in ({"pixel_values": inputs["pixel_values"].flip(-1) + 1}, {"attention_mask": masked}):
        with pytest.raises(ModelError, match="the prefix was kept for other prompts or pictures; keep one for these"):
            model.generate(dict(inputs) | other, audio, prefix=prefix)
    again = model.generate(model.inputs(tiny_samples[:1]), audio, prefix=prefix)  # equal tensors, other objects
    assert torch.equal(again.sequences, model.generate(inputs, audio, prefix=prefix).sequences)


def test_without_pixels_a_prefix_belongs_to_the_encoded_pictures_it_was_kept_with(
    model: SafeModel, tiny_samples: list[Sample]
) -> None:
    inputs, audio = _parts(model, tiny_samples[:1])
    images, others = (model.encode_images(inputs) for _ in range(2))
    words = {name: value for name, value in inputs.items() if name != "pixel_values"}
    prefix = model.keep_prefix(words, model.generate(words, images=images), images)
    assert prefix is not None
    assert _close(model.generate(words, audio, images=images, prefix=prefix), model.generate(inputs, audio))
    for given in (others, None):
        with pytest.raises(ModelError, match="the prefix was kept for other prompts or pictures"):
            model.generate(words, audio, images=given, prefix=prefix)


@pytest.mark.parametrize(
    ("one", "other", "belongs"),
    [
        ([torch.ones(1, 2), torch.ones(2, 2)], [torch.ones(1, 2), torch.ones(2, 2)], True),
        ([torch.ones(1, 2), torch.ones(2, 2)], [torch.ones(1, 2), torch.zeros(2, 2)], False),
        ([torch.ones(1, 2)], [torch.ones(1, 2)] * 2, False),
        (torch.ones(2), torch.ones(2, dtype=torch.bfloat16), False),
        (torch.ones(2), [1.0, 1.0], False),
        ((3, 4), (3, 4), True),
    ],
)
def test_pictures_are_compared_by_their_values(one: Any, other: Any, belongs: bool) -> None:
    words, nothing = torch.ones(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    prefix = Prefix({"input_ids": words, "pixel_values": one}, None, nothing, nothing, ())
    assert prefix.belongs_to({"input_ids": words.clone(), "pixel_values": other}) == belongs
    assert not prefix.belongs_to({"input_ids": words})


def test_an_output_of_other_inputs_is_refused(model: SafeModel, tiny_samples: list[Sample]) -> None:
    one, other = model.inputs(tiny_samples[:1]), model.inputs(tiny_samples[2:3])
    with pytest.raises(ModelError, match="the output does not belong to these inputs without audio"):
        model.keep_prefix(one, model.generate(other))


def test_an_output_without_a_cache_is_refused(model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs = model.inputs(tiny_samples[:1])
    with pytest.raises(ModelError, match="no key-value cache to keep; generate it with use_cache=True"):
        model.keep_prefix(inputs, model.generate(inputs, use_cache=False))


@pytest.mark.parametrize("options", [{"use_cache": False}, {"output_hidden_states": True}])
def test_a_prefix_needs_a_cache_and_tells_no_hidden_states(
    model: SafeModel, tiny_samples: list[Sample], options: dict[str, bool]
) -> None:
    inputs, audio = _parts(model, tiny_samples[:1])
    with pytest.raises(ModelError, match="a kept prefix needs use_cache and tells no hidden states"):
        model.generate(inputs, audio, prefix=_kept(model, inputs), **options)


def test_a_scope_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fusion\.scope must be prompt or suffix, got all; use e\.g\. prompt"):
        FusionConfig(scope="all")  # type: ignore[arg-type]
