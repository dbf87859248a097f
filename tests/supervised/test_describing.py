from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from supervised.config import FusionConfig, ModelConfig, ProjectorConfig
from supervised.describing import Description, describe
from supervised.errors import ConfigError, ModelError
from supervised.safe_model import SafeModel
from supervised.stage_a.config import LossConfig, StageAConfig
from supervised.stage_a.trained import trained_values

LLAVA_7B = ModelConfig(
    base="llava-hf/llava-1.5-7b-hf", encoder="laion/clap-htsat-unfused", dtype="bfloat16", device="cuda"
)


def _built(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """Trainable parameters, frozen parameters and bytes of what is really made."""
    model = SafeModel.attach(config)
    parts: dict[str, torch.nn.Module] = {"base": model.base}
    encoders = getattr(model.encoder, "encoders", [model.encoder])
    parts |= {f"encoder {number}": encoder for number, encoder in enumerate(encoders)}
    parts |= {name: getattr(model.adapter, name) for name in ("join", "projector", "fusion")}
    found = {}
    for name, part in parts.items():
        tensors = [*part.parameters(), *part.buffers()]
        if tensors:
            found[name] = (
                sum(each.numel() for each in part.parameters() if each.requires_grad),
                sum(each.numel() for each in part.parameters() if not each.requires_grad),
                sum(each.numel() * each.element_size() for each in tensors),
            )
    count = model.adapter.markers.numel()
    return found | {"markers": (count, 0, 4 * count)}


def _described(description: Description) -> dict[str, tuple[int, int, int]]:
    encoders = iter(range(9))
    names = [f"encoder {next(encoders)}" if each.part == "encoder" else each.part for each in description.components]
    return {
        name: (each.trainable, each.frozen, each.bytes)
        for name, each in zip(names, description.components, strict=True)
    }


def test_the_demo_is_counted_as_it_is_built() -> None:
    assert _described(describe(ModelConfig())) == _built(ModelConfig())


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_folder_is_counted_as_it_is_built(tiny_config: ModelConfig, dtype: Literal["auto", "bfloat16"]) -> None:
    config = replace(
        tiny_config,
        dtype=dtype,
        projector=ProjectorConfig(kind="resampler", bottleneck=8),
        fusion=FusionConfig(kind="gated", layers=(0, 1), residual="fixed"),
    )
    assert _described(describe(config)) == _built(config)
    assert describe(config).components[0].dtype == ("float32" if dtype == "auto" else "bfloat16")


def test_inserted_tokens_are_counted_without_a_fusion(tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, fusion=FusionConfig(injection="tokens"))
    assert _described(describe(config)) == _built(config)
    assert [each.part for each in describe(config).components] == ["base", "encoder", "projector", "markers"]


def test_a_base_that_is_trained_too_is_counted_as_the_optimiser_has_it(tiny_config: ModelConfig) -> None:
    naive = StageAConfig(train_base=True, loss=LossConfig(distill=0.0, feature=0.0))
    description = describe(tiny_config, train_base=True)
    groups = trained_values(SafeModel.attach(tiny_config), naive).optimizer.param_groups
    base = sum(each.numel() for group in groups if group["part"] == "base" for each in group["params"])
    frozen = describe(tiny_config).components[0].frozen
    assert 0 < base < frozen
    assert (description.components[0].trainable, description.components[0].frozen) == (base, frozen - base)
    assert description.trainable == sum(each.numel() for group in groups for each in group["params"])
    assert description.trainable_share == description.trainable / frozen
    with pytest.raises(ConfigError, match=r"train_base trains a base in float32, but this one is in bfloat16"):
        describe(replace(tiny_config, dtype="bfloat16"), train_base=True)


def test_an_ensemble_is_counted_as_it_is_built(tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, more_encoders=("demo",))
    described = _described(describe(config))
    assert described == _built(config)
    # Maps to the wider of 16 and 96.
    assert described["join"] == (16 * 96 + 96 + 96 * 96 + 96, 0, 4 * (16 * 96 + 96 + 96 * 96 + 96))


def test_whisper_is_counted_without_its_decoder(tiny_config: ModelConfig, tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=60,
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperForConditionalGeneration(config).eval().save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    config = replace(tiny_config, encoder=str(tmp_path))
    assert _described(describe(config)) == _built(config)


def test_llava_of_7_billion_by_hand() -> None:
    width, inner, heard = 4096, 11008, 1024
    layer = 4 * width**2 + 3 * width * inner + 2 * width
    language = 2 * 32064 * width + 32 * layer + width  # table and head, layers, last norm
    patches = (336 // 14) ** 2
    block = 4 * (heard**2 + heard) + 2 * 2 * heard + 4096 * heard + 4096 + heard * 4096 + heard
    vision = heard + 3 * 14 * 14 * heard + (patches + 1) * heard + 2 * heard + 24 * block + 2 * heard
    bridge = heard * width + width + width**2 + width
    assert (language, vision, bridge) == (6_738_939_904, 303_507_456, 20_979_712)
    base = describe(LLAVA_7B).components[0]
    assert (base.trainable, base.frozen) == (0, language + vision + bridge)
    assert base.frozen == 7_063_427_072
    assert base.bytes == pytest.approx(2 * base.frozen, rel=1e-6)  # bfloat16; buffers are small


def test_the_adapter_of_7_billion_is_small_against_its_base() -> None:
    description = describe(LLAVA_7B)
    projector = 2 * 768 + 8 * 768 + (768 + 1) * 4096 + 8 * 4096 + (4096 + 1) * 4096
    attention = 4 * 8 * 4096 + 2 * 4096 + 1
    gate = 4096 + 2 * 2 * 4096 + 64 * (2 * 4096 + 1) + 65
    trainable = projector + attention + gate + 2 * 4096
    assert description.trainable == trainable
    assert description.trainable_share == pytest.approx(trainable / 7_063_427_072)
    encoder = description.components[1]
    assert description.overhead_bytes == encoder.bytes + 4 * trainable
    assert description.trainable_share <= 0.011
    assert description.overhead_bytes <= 750e6


def test_gpt2_with_clip_by_hand() -> None:
    width, vocabulary = 768, 50257 + 2  # and tokens for pictures and padding
    layer = 12 * width**2 + 13 * width
    language = 2 * vocabulary * width + 1024 * width + 12 * layer + 2 * width  # the head is its own
    block = 12 * width**2 + 13 * width
    vision = width + 3 * 32 * 32 * width + 50 * width + 2 * width + 12 * block + 2 * width
    bridge = 2 * (width**2 + width)
    base = describe(replace(LLAVA_7B, base="runs/bases/small/bridge/base")).components[0]
    assert base.frozen == language + vision + bridge


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"base": "nobody/nothing"},
            r"base 'nobody/nothing' is not on this machine, .*; download it first, or use one",
        ),
        ({"base": "/gone/base"}, "base '/gone/base' is not on this machine"),
        (
            {"base": "openai/whisper-small"},
            r"is a whisper and cannot be built as a vision-language model .*; give e\.g",
        ),
        ({"encoder": "llava-hf/llava-1.5-7b-hf"}, r"its model_type is 'llava'\); give a CLAP or Whisper model"),
        (
            {"encoder": "630k-best.pt"},
            "is a file of weights, which has no configuration to describe; describe its like",
        ),
        ({"fusion": FusionConfig(heads=3)}, r"fusion\.heads = 3 does not divide the base's embedding width 4096"),
        ({"fusion": FusionConfig(lora_rank=4097)}, r"fusion\.lora_rank is 4097, but .* width of 4096; use 1 to 4096"),
        (
            {"projector": ProjectorConfig(hidden=65537)},
            r"projector\.hidden is 65537, .* use at most 16 times that",
        ),
        ({"fusion": FusionConfig(layers=(0, 40))}, "names layer 40, but the base's text stack has 32 layers"),
    ],
)
def test_what_cannot_be_described_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"^[^\n]*{message}[^\n]*$"):
        describe(replace(LLAVA_7B, **options))


def test_a_folder_is_believed_before_what_is_shipped(
    tiny_base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(LLAVA_7B, base="runs/bases/small/bridge/base")
    assert describe(config).components[0].origin == "shipped"
    shutil.copytree(tiny_base_dir, config.base)
    base = describe(config).components[0]
    assert (base.origin, base.frozen < 100_000) == ("folder", True)
    (Path(config.base) / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has no configuration that can be read \([^\n]*\); give the folder"):
        describe(config)
