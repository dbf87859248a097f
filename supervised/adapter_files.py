"""An adapter as a folder: `adapter.json` (what it is and what it fits) and one safetensors file (all its weights).

The weights' file is named after its contents and `adapter.json` is replaced last, so that a folder that is saved to
again holds the old adapter or the new one at any moment, never a mixture. Reading trusts nothing: format, version,
checksum, names, shapes, types and finiteness are checked before a weight is copied; no pickle is ever opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from supervised.base import first_line
from supervised.config import FUSING, FusionConfig, ModelConfig, ProjectorConfig
from supervised.errors import CheckpointError, ConfigError, ModelError
from supervised.files import atomic_path, sha256_file, write_json

FORMAT = "safe-rl-adapter"
VERSION = 2
INDEX = "adapter.json"
MAX_INDEX_BYTES = 1_000_000


@dataclass(frozen=True)
class Fit:
    """What an adapter was trained on; it fits nothing else."""

    base_sha256: str
    """Of the base's weights, as `supervised.base.weights_sha256` counts."""
    hidden_size: int
    """Width of the base's text embeddings."""
    embedding_rms: float
    """Root mean square of the base's text embeddings."""
    encoder_sha256: str
    """Of the audio encoder's weights and settings."""
    token_dim: int
    """Width of the encoder's tokens."""
    token_parts: tuple[tuple[int, int], ...] = ()
    """Number and width of the tokens of every encoder in an ensemble; (): there is one."""


def save_adapter(folder: Path | str, adapter: nn.Module, config: ModelConfig, fit: Fit) -> None:
    """Write the adapter, its configuration and what it fits.

    Raises:
        CheckpointError: a weight is NaN or infinite; such an adapter could not be loaded again.
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu() for name, tensor in adapter.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"adapter weight {name} is NaN or infinite; train with a smaller learning rate.")
    content = save(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    weights = folder / f"adapter-{sha256[:12]}.safetensors"
    with atomic_path(weights) as temporary:
        temporary.write_bytes(content)
    index = {"format": FORMAT, "version": VERSION, "weights": {"file": weights.name, "sha256": sha256}}
    config = replace(config, feature_cache=None)  # a place, and of no meaning on another machine
    values = {name: value for name, value in asdict(config).items() if name != "trust_remote_code"}
    write_json(folder / INDEX, index | {"fit": asdict(fit), "config": values})
    for old in folder.glob("adapter-*.safetensors"):
        if old != weights:
            old.unlink()


def read_adapter(folder: Path | str) -> tuple[ModelConfig, Fit, dict[str, Tensor]]:
    """Return configuration, fit and weights of a saved adapter.

    Raises:
        CheckpointError: missing, damaged, of another format or version.
    """
    folder = Path(folder)
    index = _read_index(folder / INDEX)
    try:
        if index["format"] != FORMAT or index["version"] != VERSION:
            raise CheckpointError(
                f"{folder / INDEX} is {index['format']!r} version {index['version']!r}; "
                f"this program reads {FORMAT!r} version {VERSION}; train the adapter again."
            )
        name, sha256 = str(index["weights"]["file"]), index["weights"]["sha256"]
        parts = tuple((int(count), int(width)) for count, width in index["fit"]["token_parts"])
        fit = Fit(**index["fit"] | {"token_parts": parts})
        config = _config(index["config"])
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder / INDEX} is not an adapter's description ({first_line(error)}); train the adapter again."
        ) from error
    weights = folder / name
    if Path(name).name != name or not weights.is_file():
        raise CheckpointError(
            f"{folder} lacks its weights {name!r}; copy the whole folder, or train the adapter again."
        )
    if sha256_file(weights) != sha256:
        raise CheckpointError(f"{weights} is damaged (its SHA-256 differs); copy it again, or train it again.")
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{weights} is not a safetensors file ({first_line(error)}); train the adapter again."
        ) from error
    if config.fusion.injection == "tokens":  # such adapters once held a fusion, too: untrained, nothing went through it
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("fusion.")}
    return config, fit, tensors


def check_fit(saved: Fit, found: Fit) -> None:
    """Refuse to join an adapter with a base or an encoder that it was not trained on.

    Raises:
        ModelError: they differ, and in what.
    """
    if saved.hidden_size != found.hidden_size:
        raise ModelError(
            f"the adapter is for a base of width {saved.hidden_size}, this one has {found.hidden_size}; "
            "give the base it was trained on."
        )
    if saved.base_sha256 != found.base_sha256 or abs(saved.embedding_rms / found.embedding_rms - 1) > 0.01:
        raise ModelError(
            f"the adapter is for a base with weights {saved.base_sha256[:12]}, this one has {found.base_sha256[:12]}; "
            "give the base it was trained on."
        )
    ears, other_ears = ((fit.encoder_sha256, fit.token_dim, fit.token_parts) for fit in (saved, found))
    if ears != other_ears:
        raise ModelError(
            f"the adapter is for an audio encoder {saved.encoder_sha256[:12]}, this one is "
            f"{found.encoder_sha256[:12]}; give the encoder it was trained on."
        )


def load_weights(adapter: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved weights into `adapter`; all of them or none.

    Raises:
        CheckpointError: a weight is missing, unknown, of another shape or type, or not finite.
    """
    expected = adapter.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"the adapter lacks {len(missing)} weights, e.g. {missing[0]}; train it again.")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"the adapter has {len(unknown)} unknown weights, e.g. {unknown[0]}; train it again.")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise CheckpointError(
                f"adapter weight {name} must be {wanted.dtype} {list(wanted.shape)}, got {tensor.dtype} "
                f"{list(tensor.shape)}; train the adapter again."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"adapter weight {name} is NaN or infinite; train the adapter again.")
    adapter.load_state_dict(dict(tensors), strict=True)


def _read_index(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; give the folder of a trained adapter.")
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_INDEX_BYTES:,} bytes; give the folder of a trained adapter.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({first_line(error)}); train the adapter again.") from error
    if not isinstance(index, dict):
        raise CheckpointError(f"{path} must hold a JSON object; train the adapter again.")
    return index


def _config(saved: dict[str, Any]) -> ModelConfig:
    """Return the configuration from JSON; unknown names and values out of range are refused."""
    fusion = saved["fusion"] | {"layers": tuple(saved["fusion"]["layers"])}
    if fusion["injection"] == "tokens":  # what once was the default, or had no effect, is none of its settings now
        fusion = {name: value for name, value in fusion.items() if name not in FUSING}
    parts = {
        "trust_remote_code": False,  # whatever the file says: whom to trust is for the caller to say
        "more_encoders": tuple(saved["more_encoders"]),
        "projector": ProjectorConfig(**saved["projector"]),
        "fusion": FusionConfig(**fusion),
    }
    return ModelConfig(**saved | parts)
