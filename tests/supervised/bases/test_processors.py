"""From a folder on disk to answers, for families with and without chat template, with what Pillow alone can do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supervised.base import load_base
from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError, ModelError
from supervised.safe_model import SafeModel

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "What", "is", "this", "it", "?", "Question", "Answer", ":"]
SQUARE = {"height": 32, "width": 32}
EDGE = {"longest_edge": 32}
CHATS = {
    "gemma3": "<start_of_image> ",
    "idefics3": "<image> ",
    "internvl": "<IMG_CONTEXT> ",
    "llava": "<image> ",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|> ",
    "smolvlm": "<image> ",
}
"""What stands for a picture in the family's chat template; the other families have no template."""
SPECIAL = {
    "blip_2_opt": ["<a>", "<b>", "<image>"],
    "blip_2_t5": ["<a>", "<b>", "<image>"],
    "gemma3": ["<start_of_image>", "<end_of_image>", "<image_soft_token>"],
    "idefics3": ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"],
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>"],
    "llava": ["<a>", "<b>", "<image>"],
    "paligemma": ["<a>", "<b>", "<image>"],
    "qwen2_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "smolvlm": ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"],
}
"""Tokens from id 88 on, where the tiny models of the matrix expect them."""
NAMED = {
    "gemma3": {"boi_token": 0, "eoi_token": 1, "image_token": 2},
    "internvl": {"start_image_token": 0, "end_image_token": 1, "context_image_token": 2},
}
"""Names under which a family's tokenizer knows its tokens."""
PROCESSOR: dict[str, dict[str, Any]] = {
    "blip_2_opt": {"processor_class": "Blip2Processor", "num_query_tokens": 4},
    "blip_2_t5": {"processor_class": "Blip2Processor", "num_query_tokens": 4},
    "gemma3": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
    "idefics3": {"processor_class": "Idefics3Processor", "image_seq_len": 4},
    "internvl": {"processor_class": "InternVLProcessor", "image_seq_length": 4},
    "llava": {
        "processor_class": "LlavaProcessor",
        "patch_size": 8,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    },
    "paligemma": {"processor_class": "PaliGemmaProcessor"},
    "qwen2_vl": {"processor_class": "Qwen2VLProcessor"},
    "smolvlm": {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
}


def _pictures(family: str) -> Any:
    import transformers

    processors: dict[str, tuple[str, dict[str, Any]]] = {
        "blip_2_opt": ("BlipImageProcessorPil", {"size": SQUARE}),
        "blip_2_t5": ("BlipImageProcessorPil", {"size": SQUARE}),
        "gemma3": ("Gemma3ImageProcessorPil", {"size": SQUARE}),
        "idefics3": ("Idefics3ImageProcessorPil", {"size": EDGE, "max_image_size": EDGE, "do_image_splitting": False}),
        "internvl": ("GotOcr2ImageProcessorPil", {"size": SQUARE, "crop_to_patches": False}),
        "llava": ("CLIPImageProcessorPil", {"size": SQUARE, "do_center_crop": False}),
        "paligemma": ("SiglipImageProcessorPil", {"size": SQUARE, "image_seq_length": 16}),
        "qwen2_vl": ("Qwen2VLImageProcessorPil", {"patch_size": 8, "min_pixels": 256, "max_pixels": 1024}),
        "smolvlm": ("SmolVLMImageProcessorPil", {"size": EDGE, "max_image_size": EDGE, "do_image_splitting": False}),
    }
    kind, settings = processors[family]
    return getattr(transformers, kind)(**settings)


def _tokenizer(family: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL[family]
    vocabulary = {word: i for i, word in enumerate(WORDS)} | {token: 88 + i for i, token in enumerate(special)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names: Any = special
    if family in NAMED:
        names = {name: special[place] for name, place in NAMED[family].items()} | {"video_token": "<video>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=names,
    )


@pytest.fixture
def folder(tmp_path: Path, families: list[Any], base_of: Callable[[Any], Any]) -> Callable[[str], Path]:
    """Write the tiny model of a family with its processor."""

    def write(name: str) -> Path:
        base = base_of(next(family for family in families if family.name == name))
        base.save_pretrained(tmp_path)
        _tokenizer(name).save_pretrained(tmp_path)
        _pictures(name).save_pretrained(tmp_path)
        if name == "paligemma":  # no setting of its image processor's, but the processor asks it
            path = tmp_path / "preprocessor_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"image_seq_length": 16}))
        (tmp_path / "processor_config.json").write_text(json.dumps(PROCESSOR[name]))
        if name in CHATS:
            template = (
                "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
                "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
            )
            (tmp_path / "chat_template.jinja").write_text(template.replace("IMAGE", CHATS[name]))
        return tmp_path

    return write


def _samples() -> list[Sample]:
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(2)]
    tone = Waveform(np.sin(np.arange(16_000) / 10).astype(np.float32), 16_000)
    return [
        Sample("a", "What is this ?", ("it",), pictures[0], tone),
        Sample("b", "What is it ? is this it ?", ("it",), pictures[1]),
    ]


# PaliGemma's processor copies token ids into numpy in a way that numpy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(set(SPECIAL) - {"smolvlm"}))
def test_a_family_answers_from_files_with_and_without_audio(
    name: str, folder: Callable[[str], Path], tiny_encoder_dir: Path
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(base=str(folder(name)), encoder=str(tiny_encoder_dir), fusion=FusionConfig(residual_scale=2.0))
    model = SafeModel.attach(config)
    samples = _samples()
    inputs = model.inputs(samples)
    assert "labels" not in inputs
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    asked = model.processor.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
    for text, sample in zip(asked, samples, strict=True):
        assert sample.question in text
        assert (name in CHATS) != (text.split()[0] == "Question" and text.endswith("Answer :"))
    plain = model.base.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(inputs).sequences, plain)
    audio = model.encode_audio([sample.audio for sample in samples])
    heard = model.generate(inputs, audio)
    assert torch.equal(heard.logits[0][1], model.generate(inputs).logits[0][1])
    assert not torch.equal(heard.logits[0][0], model.generate(inputs).logits[0][0])
    answers = model.decode(heard, inputs)
    assert len(answers) == 2
    assert not any("What" in answer and "this" in answer and "?" in answer for answer in answers)
    images = model.encode_images(inputs)
    if images is not None:
        assert torch.equal(model.generate(inputs, audio, images=images).sequences, heard.sequences)


def test_blip_2_wants_a_picture_for_every_question(folder: Callable[[str], Path]) -> None:
    from supervised.prompts import write_inputs

    _, processor = load_base(folder("blip_2_opt"))
    first, second = _samples()
    with pytest.raises(DataError, match=r"sample 'b' has no picture, and Blip2Processor puts one before every"):
        write_inputs(processor, [first, replace(second, image=None)])


def test_a_processor_with_films_is_built_without_them_and_needs_no_torchvision(folder: Callable[[str], Path]) -> None:
    _, processor = load_base(folder("qwen2_vl"))
    assert processor.video_processor is None
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"
    assert processor.tokenizer.padding_side == "left"


def test_a_missing_package_is_named(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(
        ModelError, match=r"^base [^\n]*: its SmolVLMProcessor cannot be built \([^\n]*num2words[^\n]*$"
    ):
        load_base(folder("smolvlm"))
