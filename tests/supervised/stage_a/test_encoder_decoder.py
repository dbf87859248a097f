"""Stage A of a base whose language model has an encoder: the prompt goes there, the answer to the decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supervised.base import decoder_start, has_position_table, token_positions, weights_sha256
from supervised.config import ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.errors import ModelError
from supervised.losses import IGNORED
from supervised.safe_model import SafeModel
from supervised.stage_a.config import GuardConfig, StageAConfig
from supervised.stage_a.examples import Examples
from supervised.stage_a.teacher import Teacher
from supervised.stage_a.training import train_stage_a

TONES = {"dog": 300.0, "rain": 2500.0}
START, END, PAD = 0, 1, 0


def questions(count: int, seed: int) -> list[Sample]:
    """Every second question needs the sound, the others carry it for nothing; prompts and answers differ in length."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        name = list(TONES)[i // 2 % 2]
        time = np.arange(16_000) / 16_000
        sound = Waveform((0.5 * np.sin(2 * np.pi * TONES[name] * time)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        if i % 2:
            samples.append(Sample(f"v{i}", "what is the colour ?", ("red and blue",), picture, sound, "scenes-vl"))
        else:
            samples.append(Sample(f"a{i}", "which sound can you hear in the picture ?", (name,), picture, sound))
    return samples


@pytest.fixture
def model(tiny_t5_dir: Path, tiny_encoder_dir: Path) -> SafeModel:
    torch.manual_seed(0)
    return SafeModel.attach(ModelConfig(base=str(tiny_t5_dir), encoder=str(tiny_encoder_dir)))


@pytest.fixture
def examples(model: SafeModel) -> Examples:
    return Examples(model, questions(4, 0), range(4), lambda _: None)


def test_the_prompt_stands_alone_and_the_decoder_gets_the_answer_shifted(examples: Examples) -> None:
    rows = [1, 0]
    batch = examples.batch(rows)
    prompt, _, _ = examples.prompt(rows)
    assert batch.inputs.keys() == prompt.keys() | {"decoder_input_ids"}
    assert all(torch.equal(batch.inputs[name], prompt[name]) for name in prompt)
    assert torch.equal(batch.prompt_mask, prompt["attention_mask"].bool())
    assert not bool(batch.prompt_mask.all())  # the shorter prompt is padded
    red, both, blue, dog = examples.model.processor.tokenizer("red and blue dog")["input_ids"]
    assert batch.labels.tolist() == [[red, both, blue, END], [dog, END, IGNORED, IGNORED]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[START, red, both, blue], [START, dog, END, PAD]]


@torch.no_grad()
def test_teacher_forced_logits_are_those_of_generation(examples: Examples) -> None:
    """With the base's own answer in the decoder, every step predicts what `generate` saw there."""
    model, rows = examples.model, [0, 1]
    inputs, audio, images = examples.prompt(rows)
    output = model.generate(inputs, audio, images=images, max_new_tokens=4)
    said = output.sequences[:, 1:]
    assert examples.ready is not None
    examples.ready[:2] = [replace(each, target=ids) for each, ids in zip(examples.ready, said, strict=False)]
    logits = examples.logits(examples.batch(rows), audio, 1.0)
    assert logits.shape == (2, said.shape[1], len(model.processor.tokenizer))
    for step, expected in enumerate(output.logits):
        torch.testing.assert_close(logits[:, step], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_without_audio_are_the_bases_and_are_cached_by_row(examples: Examples) -> None:
    batch = examples.batch([0, 1, 3])
    plain = examples.model.base(**batch.inputs).logits
    assert torch.equal(examples.logits(batch, None, 1.0), plain)
    assert torch.equal(examples.logits(batch, batch.audio, 0.0), plain)
    assert not torch.allclose(examples.logits(batch, batch.audio, 1.0), plain)
    kept, _ = Teacher(examples, [1, 3])(batch)
    torch.testing.assert_close(kept, plain[1:], atol=1e-4, rtol=1e-4)


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(model: SafeModel, tmp_path: Path) -> None:
    before = weights_sha256(model.base)
    config = StageAConfig(
        steps=40,
        fusion_lr=1e-2,
        gate_lr=1e-2,
        projector_lr=1e-2,
        batch_size=8,
        warmup_steps=2,
        gate_warmup_steps=2,
        eval_every=20,
        eval_samples=4,
        checkpoint_every=20,
        guard=GuardConfig(max_drop=1.0),
    )
    result = train_stage_a(model, questions(16, 0), questions(4, 1), config, tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["task_loss"] for line in lines if "task_loss" in line]
    assert len(losses) == result.steps == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert weights_sha256(model.base) == before
    again = SafeModel.from_pretrained(result.adapter)
    assert weights_sha256(again.adapter) == weights_sha256(model.adapter)


def test_an_answer_begins_with_the_token_that_generate_forces(examples: Examples) -> None:
    (dog,) = examples.model.processor.tokenizer("dog")["input_ids"]
    assert examples.answer_ids("dog") == [dog, END]
    examples.model.base.language_model.generation_config.forced_bos_token_id = 2
    assert examples.answer_ids("dog") == [2, dog, END]


def test_a_tokenizer_that_ends_answers_itself_adds_no_second_end(examples: Examples) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = examples.model.processor.tokenizer
    (dog,) = tokenizer("dog")["input_ids"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    assert examples.answer_ids("dog") == [dog, END]


def test_a_base_without_a_start_for_its_decoder_is_refused(model: SafeModel) -> None:
    assert decoder_start(model.base) == START
    for settings in (model.base.language_model.generation_config, model.base.language_model.config):
        settings.decoder_start_token_id = settings.bos_token_id = None
    with pytest.raises(ModelError, match=r"^base Blip2For\w+ names no decoder_start_token_id, .*; set it in"):
        decoder_start(model.base)


def test_positions_count_attended_tokens_and_padding_before_them_is_0() -> None:
    attended = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    assert token_positions(attended).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]


@torch.no_grad()
def test_a_gpt_2_is_told_its_positions_so_that_padding_does_not_count(
    tiny_base_dir: Path, tiny_encoder_dir: Path, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    from transformers import AutoProcessor, GPT2Config, LlavaConfig, LlavaForConditionalGeneration

    rotary = LlavaConfig.from_pretrained(tiny_base_dir)
    words = rotary.text_config.vocab_size
    text = GPT2Config(
        vocab_size=words,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    rotary.text_config = text
    rotary.tie_word_embeddings = False
    base = LlavaForConditionalGeneration(rotary)
    base.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny_base_dir).save_pretrained(tmp_path)
    model = SafeModel.attach(ModelConfig(base=str(tmp_path), encoder=str(tiny_encoder_dir)))
    assert has_position_table(model.base)
    examples = Examples(model, tiny_samples, range(6), lambda _: None)
    alone, beside = examples.batch([0]), examples.batch([0, 2])
    pad = int((beside.inputs["attention_mask"][0] == 0).sum())
    assert pad > 0
    short, long = (examples.logits(batch, batch.audio, 1.0)[0] for batch in (alone, beside))
    torch.testing.assert_close(short, long[: len(short)], atol=1e-4, rtol=1e-4)


def test_rotary_bases_are_told_no_positions(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    assert not has_position_table(tiny_model.base)
    assert "position_ids" not in Examples(tiny_model, tiny_samples, range(6), lambda _: None).batch([0, 2]).inputs
