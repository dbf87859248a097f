"""Tiny random models of the families, questions with pictures for them, and what an encoder would have heard."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tiny_configurations import END, IMAGE, START, VOCABULARY, merge, shrink
from tiny_families import Family
from tiny_pictures import listed, masked
from torch import Tensor

from supervised.adapter_files import Fit
from supervised.base import embedding_rms, embedding_width, freeze, generator, resolve_stack
from supervised.config import FusionConfig, ModelConfig
from supervised.encoders.features import AudioFeatures
from supervised.probe import probe

TOKEN_DIM = 16


def make_base(family: Family) -> Any:
    """Return a random model of the family, frozen, in float32."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = getattr(transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family.model_type or family.name])
    small = merge(shrink(kind.config_class().to_dict()), family.changes)
    small.pop("model_type")
    torch.manual_seed(1)
    base = kind(kind.config_class(**small))
    for parameter in base.parameters():
        if parameter.dim() > 1:  # as initialised, everything is so small that an answer hardly follows from a prompt
            parameter.data.mul_(4)
    if not base.can_generate():
        return freeze(base)
    generator(base).generation_config.suppress_tokens = list(range(END - 1, VOCABULARY))  # they would stand for media
    return freeze(base)


def image_features(base: Any, pictures: Mapping[str, Tensor]) -> int:
    """Return how many tokens the pictures take."""
    number = getattr(base.config, "num_query_tokens", None)
    if number is not None:
        return int(number) * len(pictures["pixel_values"])
    owner = base if hasattr(base, "get_image_features") else base.base_model
    if not hasattr(owner, "get_image_features"):
        return 0
    with torch.no_grad():
        output = owner.get_image_features(**pictures)
    found = getattr(output, "pooler_output", output)
    parts = found if isinstance(found, (list, tuple)) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts)


def in_type(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return pictures in `dtype`; ids stay integers."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def make_inputs(base: Any, family: Family, numbers: tuple[int, ...] = (1, 2, 1)) -> dict[str, Tensor]:
    """Return left-padded questions with so many pictures each, in the base's type."""
    lists = family.pictures in (listed, masked)
    if family.one_each or lists:
        numbers = (2 if lists else 1,) * len(numbers)
    pictures = in_type(family.pictures(base.config, sum(numbers)), base.dtype)
    if lists:
        pictures = {name: value.unflatten(1, (len(numbers), -1))[0] for name, value in pictures.items()}
    tokens = image_features(base, pictures) // sum(numbers)
    rows = []
    for row, number in enumerate(numbers):
        shown = [START, *[IMAGE] * tokens, END] * number
        rows.append([1, *shown, *range(5 + row, 9 + 2 * row)])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), **pictures}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inspect.signature(base.forward).parameters:
            inputs[name] = (ids == IMAGE).long()
    return inputs


@dataclass
class Setting:
    """A tiny model that hears, questions for it, and what was heard of them; the last question has no sound."""

    family: Family
    model: Any
    inputs: dict[str, Tensor]
    audio: AudioFeatures

    @property
    def base(self) -> Any:
        """Return the base."""
        return self.model.base


def make_setting(family: Family, dtype: Literal["float32", "bfloat16"] = "float32") -> Setting:
    """Return a model of the family whose adapter speaks loudly enough to change answers before any training."""
    from supervised.parts import new_adapter
    from supervised.safe_model import SafeModel

    base = make_base(family)
    inputs = make_inputs(base, family)
    base.to(getattr(torch, dtype))
    inputs = in_type(inputs, base.dtype)
    probe(base, resolve_stack(base), inputs)
    config = ModelConfig(fusion=FusionConfig(residual_scale=2.0), dtype=dtype)
    fit = Fit("", embedding_width(base), embedding_rms(base), "", TOKEN_DIM)
    torch.manual_seed(5)
    encoder: Any = None  # the audio is made, not encoded
    model = SafeModel(base, None, encoder, new_adapter(config, fit, base), config, fit)
    return Setting(family, model, inputs, make_audio(len(inputs["input_ids"]), seed=0))


def make_audio(rows: int, seed: int) -> AudioFeatures:
    """Return features as an encoder would; the last row has no audio."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.arange(rows) < rows - 1
    tokens = torch.randn(rows, 6, TOKEN_DIM, generator=generator) * present[:, None, None]
    embedding = torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=-1)
    return AudioFeatures(tokens, present[:, None].expand(-1, 6).clone(), present, embedding)
