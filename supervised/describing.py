"""What a model is made of and how large its parts are, from configurations alone: nothing is loaded or allocated.

In: `model` of a configuration. Out: a component per row: base, encoders, projector, fusion, markers, each with its
parameters and bytes as `SafeModel.attach` would make them. Models are built on the meta device, where a tensor has a
shape and a type and no values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from supervised.adapter import MARKERS
from supervised.adapter_size import parameter_counts
from supervised.architecture import architecture
from supervised.base import LOAD_ERRORS, embedding_width, first_line, resolve_stack
from supervised.config import FusionConfig, ModelConfig, ProjectorConfig
from supervised.encoders.loading import pinned
from supervised.errors import ModelError
from supervised.injection import check_layers
from supervised.stage_a.naive import trainable_stack

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Component:
    """One part of a model."""

    part: str
    """base, encoder, join, projector, fusion or markers."""
    what: str
    """What it is, in words."""
    trainable: int
    """Parameters that Stage A trains."""
    frozen: int
    """Parameters that stay as they are."""
    bytes: int
    """Memory of parameters and buffers."""
    dtype: str
    """Type of its parameters, or several."""
    origin: str = "configuration"
    """Where its architecture was read: folder, hub cache, shipped, or this configuration."""


@dataclass(frozen=True)
class Description:
    """All parts of a model."""

    components: tuple[Component, ...]

    @property
    def trainable(self) -> int:
        """Parameters that Stage A trains."""
        return sum(component.trainable for component in self.components)

    @property
    def frozen(self) -> int:
        """Parameters that stay as they are."""
        return sum(component.frozen for component in self.components)

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a fraction of the base's."""
        return self.trainable / sum(each.trainable + each.frozen for each in self.components if each.part == "base")

    @property
    def overhead_bytes(self) -> int:
        """Memory beyond the base's: adapter and encoders."""
        return sum(component.bytes for component in self.components if component.part != "base")


def describe(config: ModelConfig, train_base: bool = False) -> Description:
    """Return the parts of the model that `config` names.

    Args:
        config: of the model.
        train_base: Stage A trains the base's text stack, too (`stage_a.train_base`).

    Raises:
        ConfigError: a base that is not float32 is to be trained.
        ModelError: an architecture is not on this machine, is of another kind, or does not fit the configuration.
    """
    base, width = _base(config, train_base)
    encoders, widths = zip(*_encoders(config), strict=True)
    parts = tuple((1, wide) for wide in widths)  # the number of tokens does not count
    counts = parameter_counts(config.projector, config.fusion, max(widths), width, parts)
    words = {
        "join": f"{len(widths)} linear maps to width {max(widths)}",
        "projector": _projector(config.projector),
        "fusion": _fusion(config.fusion),
        "markers": ", ".join(MARKERS),
    }
    adapter = (
        Component(
            part,
            words[part],
            counts[part].trainable,
            counts[part].frozen,
            FLOAT32_BYTES * (counts[part].trainable + counts[part].frozen),
            "float32",
        )
        for part in words
        if part in counts
    )
    return Description((base, *encoders, *adapter))


def _base(config: ModelConfig, trained: bool) -> tuple[Component, int]:
    """Return the base and the width of its text embeddings."""
    from transformers import AutoModelForImageTextToText

    found, origin = architecture(config.base, config.base_revision, "base")
    dtype = found.dtype or torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(found, dtype=dtype, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise ModelError(
            f"base {config.base!r} is a {found.model_type} and cannot be built as a vision-language model "
            f"({first_line(error)}); give e.g. a LLaVA."
        ) from error
    width = embedding_width(model)
    check_layers(resolve_stack(model), config.fusion.layers, width)
    what = f"{config.base} ({type(model).__name__}, width {width})"
    parameters, size, types = _size(model)
    trainable = 0
    if trained:
        stack = trainable_stack(model)
        trainable = sum(parameter.numel() for parameter in stack.parameters() if parameter.requires_grad)
    return Component("base", what, trainable, parameters - trainable, size, types, origin), width


def _encoders(config: ModelConfig) -> Iterable[tuple[Component, int]]:
    """Yield every encoder and the width of its tokens."""
    first = (config.encoder, config.encoder_revision)
    for source, revision in (first, *map(pinned, config.more_encoders)):
        if source.endswith(".pt"):
            raise ModelError(
                f"encoder {source!r} is a file of weights, which has no configuration to describe; "
                "describe its like in transformers, e.g. laion/clap-htsat-unfused."
            )
        found, origin = architecture(source, revision, "encoder")
        name, tower, width = _tower(source, found)
        yield Component("encoder", f"{source} ({name}, tokens of width {width})", 0, *_size(tower), origin), width


def _tower(source: str, config: Any) -> tuple[str, nn.Module, int]:
    """Return name, modules and width of tokens of the encoder that a configuration describes."""
    try:
        with torch.device("meta"):
            if config.model_type == "clap":
                from supervised.encoders.clap import ClapAudioHalf

                clap = ClapAudioHalf(config.audio_config)
                return "CLAP", clap, int(clap.audio_model.audio_encoder.num_features)
            if config.model_type == "whisper":
                from supervised.encoders.whisper import WhisperEncoderHalf

                return "Whisper", WhisperEncoderHalf(config), int(config.d_model)
        raise ValueError(f"its model_type is {config.model_type!r}")
    except LOAD_ERRORS as error:
        raise ModelError(
            f"encoder {source!r} cannot be built ({first_line(error)}); give a CLAP or Whisper model of transformers."
        ) from error


def _size(model: nn.Module) -> tuple[int, int, str]:
    """Return parameters, bytes with buffers, and types; what is tied counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    types = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, sum(tensor.numel() * tensor.element_size() for tensor in tensors), ", ".join(types)


def _projector(config: ProjectorConfig) -> str:
    """Return the projector in words."""
    count = f"{'up to ' if config.kind == 'adaptive' else ''}{config.tokens} tokens"
    words = f"{config.kind}, {count}, {config.layers} layer{'s' if config.layers > 1 else ''}"
    return f"{words}, width {config.bottleneck}" if config.kind == "resampler" else words


def _fusion(config: FusionConfig) -> str:
    """Return the fusion in words."""
    rank = f", rank {config.lora_rank}" if config.low_rank else ""
    where = f"layers {', '.join(map(str, config.layers))}" if config.layers else "the merged embeddings"
    return f"{config.kind}{rank}, {config.heads} heads, at {where}"
