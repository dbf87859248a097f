"""A LLaVA with random weights, an adapter for it and one question with picture and clip, for the speed benchmarks.

Speed does not depend on the values of weights. `small` is CLIP ViT-B/16 at 384 pixels with a 12-layer Llama of width
768, about 200 M parameters; `7b` has the sizes of LLaVA-1.5-7B. Both see a picture as 576 tokens. All 40 text tokens
stand after the picture, which is the worst case for `scope: suffix`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from supervised.adapter import Adapter
from supervised.adapter_files import Fit
from supervised.base import embedding_mean, embedding_rms, embedding_width, freeze
from supervised.config import FusionConfig, ModelConfig
from supervised.encoders.features import AudioFeatures
from supervised.safe_model import SafeModel

IMAGE_TOKENS = 576
TEXT_TOKENS = 40
FEATURES = (64, 768)
"""Tokens of CLAP (HTSAT) for a window of 10 s, and their width."""
_IMAGE = 1
"""The token that stands for a piece of the picture."""


@dataclass(frozen=True)
class Scale:
    """Sizes of vision tower and language model."""

    vision: dict[str, int]
    text: dict[str, int]
    heads: int
    """Of the fusion."""
    feature_layer: int
    """Layer of the vision tower that the language model sees."""


SCALES = {
    "small": Scale(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 384,
            "patch_size": 16,
        },
        {
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
            "vocab_size": 32_000,
        },
        heads=4,
        feature_layer=-1,
    ),
    "7b": Scale(
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        {
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32_064,
        },
        heads=8,
        feature_layer=-2,
    ),
}


def random_base(scale: Scale, device: str, dtype: torch.dtype) -> Any:
    """Return a frozen LLaVA of these sizes."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**scale.vision),
        text_config=LlamaConfig(**scale.text, max_position_embeddings=4096, tie_word_embeddings=True),
        image_token_index=_IMAGE,
        vision_feature_layer=scale.feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            base = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    base.generation_config.eos_token_id = None  # random weights might end at once
    base.generation_config.pad_token_id = 0
    return freeze(base)


def safe_models(base: Any, scale: Scale, scopes: tuple[Literal["prompt", "suffix"], ...]) -> list[SafeModel]:
    """Return a model per scope on one base, all with the same adapter; encoder and processor are not needed here."""
    nothing: Any = None
    rms, models = embedding_rms(base), []
    adapter: Adapter | None = None
    for scope in scopes:
        config = ModelConfig(fusion=FusionConfig(heads=scale.heads, scope=scope))
        if adapter is None:
            adapter = Adapter(config.projector, config.fusion, FEATURES[1], rms, embedding_mean(base).to(base.device))
            adapter = adapter.to(base.device)
        fit = Fit("", embedding_width(base), rms, "", FEATURES[1])
        models.append(SafeModel(base, nothing, nothing, adapter, config, fit))
    return models


def question(base: Any, rows: int = 1, answer: int = 0) -> tuple[dict[str, torch.Tensor], AudioFeatures]:
    """Return prompts (rows, 616), with `answer` more tokens, their pictures, and what an encoder might hear."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = base.get_input_embeddings().weight.shape[0]
    text = torch.randint(_IMAGE + 1, vocabulary, (rows, TEXT_TOKENS + answer), generator=generator)
    ids = torch.cat([torch.full((rows, IMAGE_TOKENS), _IMAGE), text], 1)
    size = base.config.vision_config.image_size
    inputs = {
        "input_ids": ids.to(base.device),
        "attention_mask": torch.ones_like(ids).to(base.device),
        "pixel_values": torch.randn(rows, 3, size, size, generator=generator).to(base.device, base.dtype),
    }
    audio = AudioFeatures(
        torch.randn(rows, *FEATURES, generator=generator),
        torch.ones(rows, FEATURES[0], dtype=torch.bool),
        torch.ones(rows, dtype=torch.bool),
        torch.zeros(rows, 512),
    )
    return inputs, audio.to(base.device)
