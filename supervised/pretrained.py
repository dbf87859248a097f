"""A saved adapter and what it fits: its folder, or its place on the hub, goes in, the parts of a `SafeModel` come out.

Base and encoder may lie elsewhere by now; what they are may not have changed. The other way round, an adapter and its
model card are written as one folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervised.adapter import Adapter
from supervised.adapter_files import Fit, check_fit, load_weights, read_adapter, save_adapter
from supervised.config import ModelConfig
from supervised.encoders.features import AudioEncoder
from supervised.errors import ConfigError
from supervised.files import write_text
from supervised.hub import CARD, local_adapter
from supervised.model_card import model_card, read_metrics
from supervised.parts import load_parts, new_adapter


def read_saved(
    folder: Path | str,
    revision: str | None,
    base: str | None,
    encoder: str | None,
    more_encoders: Sequence[str] | None,
    device: str | None,
    feature_cache: str | None,
    trust_remote_code: bool,
    base_revision: str | None,
) -> tuple[Any, Any, AudioEncoder, Adapter, ModelConfig, Fit]:
    """Return base, processor, encoder, adapter, configuration and fit; arguments as of `SafeModel.from_pretrained`.

    Raises:
        CheckpointError: the adapter is missing, damaged or of another version, or cannot be downloaded.
        ConfigError: a revision for a folder, or trust in a base that the caller does not name.
        ModelError: base or encoder are not those the adapter was trained on.
    """
    if trust_remote_code and base is None:
        raise ConfigError(
            "trust_remote_code is True, but base is not given, and an adapter may name any base; "
            "give the base that you trust, and its base_revision if it lies on the hub."
        )
    config, saved, tensors = read_adapter(local_adapter(folder, revision))
    if base_revision is None and not trust_remote_code and base in (None, config.base):
        # A commit belongs to its repository, and another one does not have it. Whose code runs no file may choose.
        base_revision = config.base_revision
    config = replace(
        config,
        base=base or config.base,
        base_revision=base_revision,
        trust_remote_code=trust_remote_code,
        encoder=encoder or config.encoder,
        encoder_revision=config.encoder_revision if (encoder or config.encoder) == config.encoder else None,
        more_encoders=config.more_encoders if more_encoders is None else tuple(more_encoders),
        device=device or config.device,
        feature_cache=feature_cache,
    )
    model, processor, ears, found = load_parts(config)
    check_fit(saved, found)
    adapter = new_adapter(config, saved, model)
    load_weights(adapter, tensors)
    return model, processor, ears, adapter, config, saved


def write_saved(
    folder: Path | str,
    adapter: Adapter,
    config: ModelConfig,
    fit: Fit,
    metrics: Mapping[str, Any] | Path | str | None,
    licence: str | None,
) -> None:
    """Write adapter and model card; arguments and errors as of `SafeModel.save_pretrained`.

    Raises:
        CheckpointError: a weight is NaN or infinite; such an adapter could not be loaded again.
        DataError: `metrics` is a file that cannot be read.
    """
    parameters = sum(parameter.numel() for parameter in adapter.parameters())
    card = model_card(config, fit, parameters, read_metrics(metrics), licence)
    save_adapter(folder, adapter, config, fit)
    write_text(Path(folder) / CARD, card)
