"""The parts of a `SafeModel`: loaded, put on the device, probed, and identified for adapters that shall fit them."""

from __future__ import annotations

from typing import Any

import torch

from supervised.adapter import Adapter
from supervised.adapter_files import Fit
from supervised.base import (
    embedding_mean,
    embedding_rms,
    embedding_width,
    first_line,
    load_base,
    resolve_stack,
    weights_sha256,
)
from supervised.config import ModelConfig
from supervised.encoders.features import AudioEncoder
from supervised.encoders.loading import load_encoders
from supervised.errors import ConfigError, DataError, ModelError
from supervised.probe import probe
from supervised.prompts import example_inputs


def load_parts(config: ModelConfig) -> tuple[Any, Any, AudioEncoder, Fit]:
    """Return base, processor and encoder on the device, and what an adapter for them must fit.

    Raises:
        ConfigError: this machine does not have the device.
        ModelError: one of them cannot be loaded, the base cannot be asked, or audio cannot enter it.
    """
    device = find_device(config.device)
    base, processor = load_base(config.base, config.base_revision, trust_remote_code=config.trust_remote_code)
    base_sha256 = weights_sha256(base)  # of the checkpoint, whatever it is computed in
    if config.dtype != "auto" and base.dtype != getattr(torch, config.dtype):
        # Loaded anew rather than converted: some parts (rotary frequencies) stay in float32 that way.
        del base  # or the memory would have to hold it twice
        base, processor = load_base(config.base, config.base_revision, config.dtype, config.trust_remote_code)
    base.to(device)
    probe(base, resolve_stack(base), _example(processor, config).to(device, dtype=base.dtype))
    encoder = load_encoders(config.encoder, config.encoder_revision, config.more_encoders)
    encoder.to(device)
    fit = Fit(base_sha256, embedding_width(base), embedding_rms(base), encoder.sha256, encoder.token_dim, encoder.parts)
    return base, processor, encoder, fit


def new_adapter(config: ModelConfig, fit: Fit, base: Any) -> Adapter:
    """Return an untrained adapter on the device of `base`."""
    adapter = Adapter(
        config.projector, config.fusion, fit.token_dim, fit.embedding_rms, embedding_mean(base), fit.token_parts
    )
    return adapter.to(base.device)


def find_device(name: str, setting: str = "model.device") -> torch.device:
    """Return the device called `name`, as `setting` gives it.

    Raises:
        ConfigError: this machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{setting} is {name!r}, which this machine does not have; use e.g. cpu.") from error
    return device


def _example(processor: Any, config: ModelConfig) -> Any:
    """Return the inputs of a question to try the base on."""
    try:
        return example_inputs(processor, config.prompt)
    except DataError as error:
        raise ModelError(
            f"base {config.base!r} cannot be asked about a picture ({first_line(error.__cause__ or error)}); "
            'set model.prompt to a prompt that it takes, e.g. "Question: {} Answer:", or give another base.'
        ) from error
