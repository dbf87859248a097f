"""From `model.encoder` and `model.more_encoders` to the frozen encoder; its kind is what the checkpoint says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from supervised.base import LOAD_ERRORS, first_line, locate
from supervised.encoders.features import AudioEncoder
from supervised.errors import ModelError


def load_encoders(source: str, revision: str | None, more: Sequence[str] = ()) -> AudioEncoder:
    """Return the encoder of `source`, or the ensemble of it and `more`.

    Args:
        source: as of `load_encoder`.
        revision: of `source` only.
        more: further sources; one from the hub may end in @commit.

    Raises:
        ModelError: one of them cannot be loaded.
    """
    first = load_encoder(source, revision)
    if not more:
        return first
    from supervised.encoders.ensemble import EnsembleEncoder

    return EnsembleEncoder([first, *(load_encoder(*pinned(name)) for name in more)])


def load_encoder(source: str | Path, revision: str | None = None) -> AudioEncoder:
    """Return the frozen encoder of a checkpoint: CLAP or Whisper of transformers, or a `.pt` file of LAION's CLAP.

    Args:
        source: a folder, a Hugging Face id, "demo", or a `.pt` file.
        revision: commit on the Hugging Face hub; None: the newest.

    Raises:
        ModelError: not there, damaged, incomplete, no safetensors, of another kind, or its package is missing.
    """
    if str(source).endswith(".pt"):
        from supervised.encoders.laion_clap import LaionClapEncoder

        return LaionClapEncoder.from_file(Path(source))
    from transformers import PreTrainedConfig

    path, revision = locate(source, "encoder"), revision or "main"
    try:
        kind = PreTrainedConfig.get_config_dict(path, revision=revision)[0].get("model_type")
        if kind == "clap":
            from supervised.encoders.clap import ClapEncoder

            return ClapEncoder.from_pretrained(path, revision)
        if kind == "whisper":
            from supervised.encoders.whisper import WhisperEncoder

            return WhisperEncoder.from_pretrained(path, revision)
        raise ValueError(f"its model_type is {kind!r}")
    except LOAD_ERRORS as error:
        raise ModelError(
            f"encoder {str(source)!r} cannot be loaded ({first_line(error)}); "
            "give a folder or a Hugging Face id of a CLAP or Whisper model with safetensors weights and a "
            "preprocessor config, or a .pt file of LAION's CLAP."
        ) from error


def pinned(name: str) -> tuple[str, str | None]:
    """Return source and commit of `id@commit`; a folder or file is taken as it stands."""
    if Path(name).exists() or "@" not in name:
        return name, None
    source, _, revision = name.rpartition("@")
    return source, revision
