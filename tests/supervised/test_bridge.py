"""A base is assembled from a tiny GPT-2 or Llama and a tiny CLIP, its projector trained, and an adapter attached."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from supervised.assemble import assemble_llava
from supervised.base import load_base, weights_sha256
from supervised.bridge import bridge_loss, train_bridge
from supervised.config import BridgeConfig, DataConfig, ModelConfig
from supervised.data.sample import Sample
from supervised.data.source import open_split
from supervised.errors import CheckpointError, ConfigError, DataError, ModelError
from supervised.files import sha256_file
from supervised.safe_model import SafeModel

SMALL = BridgeConfig(steps=4, batch_size=4, warmup_steps=1, checkpoint_every=2, lr=1e-2)


def _tokenizer() -> Any:
    """Words of SoundScenes; no token for padding or pictures, as in DialoGPT."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from supervised.demo.vocabulary import make_tokenizer

    known = make_tokenizer(end=False).get_vocab()
    words = ["<unk>", "<end>", "question", "answer", ":", "?", *sorted(word for word in known if word.isalpha())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<end>", eos_token="<end>", model_max_length=128
    )


def _save_language_model(folder: Path, kind: str) -> Path:
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

    tokenizer = _tokenizer()
    names = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 1}
    # Larger than usual: as initialised, so small a model hardly answers from its input.
    llama = {
        "initializer_range": 0.3,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    opt = {"hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **names),
        "short": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=24, **names),
        "llama": lambda: LlamaConfig(**llama, **names),
        "tied": lambda: LlamaConfig(**llama, **names, tie_word_embeddings=True),
        "narrow": lambda: OPTConfig(**opt, **names, word_embed_proj_dim=16),
    }[kind]()
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _save_vision_model(folder: Path, kind: str = "clip") -> Path:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 16,
    }
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"height": 48, "width": 48}
    torch.manual_seed(2)
    if kind == "clip":  # both halves, as CLIP is published
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
        CLIPImageProcessorPil(size=size, do_center_crop=False).save_pretrained(folder)
    else:
        SiglipVisionModel(SiglipVisionConfig(**vision)).save_pretrained(folder)
        SiglipImageProcessorPil(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny model, by its kind."""
    made: dict[str, Path] = {}

    def give(kind: str) -> Path:
        if kind not in made:
            save = _save_vision_model if kind in ("clip", "siglip") else _save_language_model
            made[kind] = save(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return give


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    scenes = open_split(DataConfig(adapter=24, train=2, validation=2, calibration=2, test=2), "adapter")
    return [scenes[index] for index in range(24)]


@pytest.mark.parametrize(
    ("language", "vision"), [("gpt2", "clip"), ("llama", "clip"), ("tied", "clip"), ("gpt2", "siglip")]
)
def test_an_assembled_base_holds_both_models_bit_for_bit(
    part: Callable[[str], Path], tmp_path: Path, language: str, vision: str
) -> None:
    from transformers import AutoModelForCausalLM, CLIPVisionModel, SiglipVisionModel

    model, processor = load_base(assemble_llava(part(language), part(vision), tmp_path / "base"))
    speaker = AutoModelForCausalLM.from_pretrained(part(language))
    old = speaker.get_input_embeddings().weight
    table = model.get_input_embeddings().weight
    assert torch.equal(table[: len(old)], old)
    assert torch.equal(model.lm_head.weight[: len(old)], speaker.get_output_embeddings().weight)
    assert len(table) == len(old) + 2 == len(processor.tokenizer)  # <pad> and <image>
    stack = {name: value for name, value in model.model.language_model.state_dict().items() if "wte" not in name}
    for name, value in speaker.base_model.state_dict().items():
        if name in stack and "embed_tokens" not in name:
            assert torch.equal(stack[name], value), name
    tower = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[vision].from_pretrained(part(vision))
    assert weights_sha256(tower) == weights_sha256(model.model.vision_tower)
    ids = processor(text="<image>\nwhat", images=_grey(), return_tensors="pt")["input_ids"]
    assert (ids == model.config.image_token_id).sum() == 9


def _grey() -> Any:
    from PIL import Image

    return Image.new("RGB", (48, 48))


def test_an_assembled_base_speaks_like_its_language_model_about_words_alone(
    part: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, processor = load_base(assemble_llava(part("gpt2"), part("clip"), tmp_path / "base"))
    speaker = AutoModelForCausalLM.from_pretrained(part("gpt2")).eval()
    ids = processor.tokenizer("question : what is the colour ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits[..., : len(speaker.lm_head.weight)], speaker(ids).logits)


def test_what_is_drawn_depends_on_the_seed_alone(part: Callable[[str], Path], tmp_path: Path) -> None:
    torch.manual_seed(99)
    state = torch.get_rng_state()
    hashes = [
        sha256_file(assemble_llava(part("gpt2"), part("clip"), tmp_path / str(i), seed) / "model.safetensors")
        for i, seed in enumerate((3, 3, 4))
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / "0" / "assembly.json").read_text()) == {
        "language_model": str(part("gpt2")),
        "language_revision": None,
        "vision_model": str(part("clip")),
        "vision_revision": None,
        "seed": 3,
        "projector": "untrained",
    }


def test_a_vision_encoder_in_another_dtype_is_converted_and_the_language_model_is_not(
    part: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

    speaker = AutoModelForCausalLM.from_pretrained(part("llama"), dtype=torch.bfloat16)
    speaker.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(part("llama")).save_pretrained(tmp_path / "half")
    model, _ = load_base(assemble_llava(tmp_path / "half", part("clip"), tmp_path / "base"))
    assert weights_sha256(model.model.language_model.layers) == weights_sha256(speaker.model.layers)
    tower = CLIPVisionModel.from_pretrained(part("clip")).bfloat16()
    assert weights_sha256(model.model.vision_tower) == weights_sha256(tower)


def test_the_other_half_of_a_checkpoint_is_not_reported(
    part: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import CLIPVisionModel

    caplog.set_level(logging.WARNING, "transformers")
    assemble_llava(part("gpt2"), part("clip"), tmp_path / "base")
    assert caplog.text == ""
    CLIPVisionModel.from_pretrained(part("clip"))  # whose report would have been seen
    assert "text_projection.weight" in caplog.text


def test_what_cannot_be_joined_is_refused(part: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "base"
    with pytest.raises(ModelError, match=r"takes 1\d tokens, and the language model has 24 positions; give a vision"):
        assemble_llava(part("short"), part("clip"), out)
    with pytest.raises(ModelError, match=r"has embeddings of width 16 and layers of width 32, which a LLaVA cannot"):
        assemble_llava(part("narrow"), part("clip"), out)
    with pytest.raises(ModelError, match=r"^language model '[^\n]*clip[^\n]*' cannot be loaded \([^\n]*$"):
        assemble_llava(part("clip"), part("clip"), out)
    with pytest.raises(ModelError, match=r"^vision model '[^\n]*' cannot be loaded \([^\n]*$"):
        assemble_llava(part("gpt2"), tmp_path, out)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    with pytest.raises(ConfigError, match="exists already; give a folder that does not"):
        assemble_llava(part("gpt2"), part("clip"), out)


def test_only_the_projector_is_trained_and_an_adapter_fits_the_result(
    part: Callable[[str], Path], samples: list[Sample], tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    start = assemble_llava(part("gpt2"), part("clip"), tmp_path / "assembled")
    base = train_bridge(start, samples, SMALL, tmp_path / "run", progress=False)
    before, after = load_base(start)[0].state_dict(), load_base(base)[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "multi_modal_projector" in name}
    assert len(changed) == 4
    assert json.loads((base / "assembly.json").read_text())["projector"] == "trained"
    model = SafeModel.attach(ModelConfig(base=str(base), encoder=str(tiny_encoder_dir)))
    inputs = model.inputs(samples[:3])
    audio = model.encode_audio([sample.audio for sample in samples[:3]])
    answers = model.decode(model.generate(inputs, audio), inputs)
    assert len(answers) == 3
    plain = model.base.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(inputs).sequences, plain)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    part: Callable[[str], Path], samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supervised import bridge

    start = assemble_llava(part("gpt2"), part("clip"), tmp_path / "assembled")
    whole = train_bridge(start, samples, SMALL, tmp_path / "whole", progress=False)
    real, calls = bridge.bridge_loss, []

    def interrupted(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(bridge, "bridge_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_bridge(start, samples, SMALL, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"holds an earlier run \(checkpoint-00000002\); go on with --resume"):
        train_bridge(start, samples, SMALL, tmp_path / "parts", progress=False)
    with pytest.raises(CheckpointError, match=r"another configuration \(different: bridge\)"):
        train_bridge(start, samples, replace(SMALL, lr=1.0), tmp_path / "parts", resume=True, progress=False)
    gone_on = train_bridge(start, samples, SMALL, tmp_path / "parts", resume=True, progress=False)
    assert sha256_file(gone_on / "model.safetensors") == sha256_file(whole / "model.safetensors")


def test_the_loss_is_that_of_each_sample_alone_whatever_its_padding(
    part: Callable[[str], Path], samples: list[Sample], tmp_path: Path
) -> None:
    model, processor = load_base(assemble_llava(part("gpt2"), part("clip"), tmp_path / "base"))
    three = [replace(sample, answers=("dog",)) for sample in samples[:3]]
    assert len({len(sample.question.split()) for sample in samples[:12]}) > 1
    three[1] = replace(three[1], question="what is it ?")
    with torch.no_grad():
        together = bridge_loss(model, processor, three)
        alone = torch.stack([bridge_loss(model, processor, [sample]) for sample in three]).mean()
    torch.testing.assert_close(together, alone)


@pytest.mark.slow
def test_training_teaches_the_projector_to_answer(
    part: Callable[[str], Path], samples: list[Sample], tmp_path: Path
) -> None:
    start = assemble_llava(part("llama"), part("clip"), tmp_path / "assembled")
    settings = replace(SMALL, steps=60, batch_size=8, checkpoint_every=60, lr=3e-2)
    base = train_bridge(start, samples[:8], settings, tmp_path / "run", progress=False)
    with torch.no_grad():
        losses = [float(bridge_loss(*load_base(folder), samples[:8])) for folder in (start, base)]
    assert losses[1] < 0.7 * losses[0]


def test_a_base_in_half_precision_keeps_it(part: Callable[[str], Path], tmp_path: Path, samples: list[Sample]) -> None:
    assembled = assemble_llava(part("llama"), part("clip"), tmp_path / "base")
    model, processor = load_base(assembled)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    trained, _ = load_base(train_bridge(tmp_path / "half", samples, SMALL, tmp_path / "run", progress=False))
    projector = trained.model.multi_modal_projector.linear_1.weight
    assert projector.dtype == trained.dtype == torch.bfloat16
    assert not torch.equal(projector, model.model.multi_modal_projector.linear_1.weight)


def test_a_device_that_is_not_there_is_refused(
    part: Callable[[str], Path], samples: list[Sample], tmp_path: Path
) -> None:
    start = assemble_llava(part("gpt2"), part("clip"), tmp_path / "assembled")
    with pytest.raises(ConfigError, match=r"^device is 'cuda:99', which this machine does not have; use e\.g\. cpu"):
        train_bridge(start, samples, SMALL, tmp_path / "run", progress=False, device="cuda:99")


def test_samples_without_pictures_are_refused(
    part: Callable[[str], Path], samples: list[Sample], tmp_path: Path
) -> None:
    start = assemble_llava(part("gpt2"), part("clip"), tmp_path / "assembled")
    with pytest.raises(DataError, match="no sample has a picture, so nothing can be learned"):
        train_bridge(start, [replace(samples[0], image=None)], SMALL, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("seed", -1), ("lr", 0.0), ("clip_norm", float("inf")), ("weight_decay", -1.0)]
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"bridge\.{name} must .*, got {value}; use e\.g\."):
        BridgeConfig(**{name: value})
