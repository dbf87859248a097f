from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from supervised.demo.config import BasePretraining, EncoderPretraining, PretrainConfig
from supervised.demo.pretrain import pretrain
from supervised.demo.pretrain_base import PATCHES, Batches, make_model, make_processor
from supervised.demo.pretrain_encoder import _contrast
from supervised.demo.vocabulary import make_tokenizer, words
from supervised.demo.world import Scene, SceneObject
from supervised.errors import ConfigError


def batches(size: int = 16) -> Batches:
    return Batches(make_processor(make_tokenizer(end=False)), size, seed=0)


def test_every_word_of_every_question_is_in_the_vocabulary() -> None:
    source = batches(256)
    ids, _, _ = source.dialogue(source.scenes(), audio_share=0.5)
    assert source.tokenizer.unk_token_id not in ids
    assert len(words()) == len(set(words()))


def test_only_the_answer_and_the_end_carry_labels() -> None:
    source = batches()
    ids, mask, labels = source.dialogue(source.scenes(), audio_share=0.5)
    spoken = labels != -100
    assert torch.equal(labels[spoken], ids[spoken])
    assert (labels[:, -1] == source.tokenizer.eos_token_id).all()
    assert ((ids == source.tokenizer.convert_tokens_to_ids("<image>")).sum(1) == PATCHES).all()
    assert (mask.sum(1) == (ids != source.tokenizer.pad_token_id).sum(1)).all()


def test_pretraining_prompts_are_the_prompts_of_the_processor() -> None:
    source = batches(1)
    scenes = source.scenes()
    ids, _, labels = source.dialogue(scenes, audio_share=0.0)
    prompt = ids[0][labels[0] == -100]
    text = source.tokenizer.decode(prompt[PATCHES + 1 :]).removesuffix(" answer :")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    processor = make_processor(source.tokenizer)
    rendered = processor.apply_chat_template([turn], add_generation_prompt=True)
    inputs = processor(text=rendered, images=[np.zeros((48, 48, 3), np.uint8)], return_tensors="pt")
    assert torch.equal(inputs["input_ids"][0], prompt)


def test_patches_name_what_stands_where() -> None:
    source = batches(1)
    scene = Scene((SceneObject("dog", "red", 4, (0.0, 0.0)),), frozenset(), 2.0, 20.0, seed=0)
    kinds, colors = source.patches([scene])
    name = source.tokenizer.convert_ids_to_tokens
    assert name(int(kinds[0, 4])) == "dog"
    assert name(int(colors[0, 4])) == "red"
    assert {name(i) for i in kinds[0, :4].tolist()} == {"empty"}
    assert name(source.place_words(0)) == ["top", "left"]


def test_word_embeddings_are_tied_and_wide_enough_to_bind() -> None:
    model = make_model(make_tokenizer(end=False))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert sum(p.numel() for p in model.parameters()) < 3_000_000


def test_clips_of_equal_meaning_are_positives_of_each_other() -> None:
    similarity = torch.tensor([[5.0, 5.0, 0.0], [5.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    dog, rain = frozenset({"dog"}), frozenset({"rain"})
    shared = _contrast(similarity, [dog, dog, rain]).item()
    # Rows 0 and 1 spread their target over both columns: -log softmax at logits (5, 5, 0) and (0, 0, 5).
    two = -F.log_softmax(torch.tensor([5.0, 5.0, 0.0]), dim=0)[0].item()
    one = -F.log_softmax(torch.tensor([0.0, 0.0, 5.0]), dim=0)[2].item()
    assert shared == pytest.approx((2 * two + one) / 3, abs=1e-6)


def test_steps_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"base\.\*_steps, batch_size and lr must be > 0"):
        BasePretraining(joint_steps=0)
    with pytest.raises(ConfigError, match=r"encoder\.clips, steps, batch_size and lr must be > 0"):
        EncoderPretraining(lr=0.0)


@pytest.mark.slow
def test_a_short_pretraining_writes_models_that_load_as_any_other(tmp_path: Path) -> None:
    from supervised.config import ModelConfig
    from supervised.safe_model import SafeModel

    base = BasePretraining(vision_steps=2, text_steps=4, joint_steps=2, batch_size=8)
    encoder = EncoderPretraining(clips=30, steps=2, batch_size=8)
    told: list[str] = []
    figures = pretrain(
        PretrainConfig(encoder=encoder, base=base, figure_questions=50, figure_clips=20), tmp_path, told.append
    )
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert figures["encoder_recorded"] is None
    assert told
    model = SafeModel.attach(ModelConfig(base=str(tmp_path / "base"), encoder=str(tmp_path / "encoder")))
    assert model.encoder.rate == 16_000
