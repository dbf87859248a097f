"""What a checkpoint is built like, without its weights: the configuration of transformers, never from the network.

In: `model.base` or an encoder. Out: the configuration, and where it was read: in the folder, in the hub's cache on this
machine, or in `architectures/`, where those of the models in `configs/` stand, each with what differs from the
defaults of its class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from supervised.base import LOAD_ERRORS, first_line, locate, needs_code
from supervised.errors import ModelError

SHIPPED = Path(__file__).parent / "architectures"


def architecture(source: str, revision: str | None, kind: Literal["base", "encoder"]) -> tuple[Any, str]:
    """Return the configuration of a model, and the place that it was read from.

    A folder or a cached checkpoint is believed before what is shipped.

    Args:
        source: a folder, a Hugging Face id, or "demo".
        revision: commit on the Hugging Face hub; None: the newest that is cached.
        kind: for the error's text.

    Raises:
        ModelError: it is nowhere on this machine, the folder's configuration is damaged, or needs code to be read.
    """
    from transformers import AutoConfig

    shipped = _shipped().get(source)
    try:
        path = locate(source, kind)
        config = AutoConfig.from_pretrained(
            path, revision=revision or "main", local_files_only=True, trust_remote_code=False
        )
        return config, "folder" if Path(path).is_dir() else "hub cache"
    except LOAD_ERRORS as error:  # a ModelError is a ValueError
        if shipped is not None and not Path(source).exists():
            return AutoConfig.for_model(**shipped), "shipped"
        if needs_code(error):
            raise ModelError(
                f"{kind} {source!r} needs Python code that lies beside it, and nothing is run to describe a model, "
                "whatever model.trust_remote_code says; describe a model of transformers that is like it."
            ) from error
        if Path(source).exists():
            raise ModelError(
                f"{kind} {source!r} has no configuration that can be read ({first_line(error)}); "
                "give the folder of a model of transformers."
            ) from error
        raise ModelError(
            f"{kind} {source!r} is not on this machine, neither as a folder nor in the hub's cache, and its "
            f"architecture is not shipped; download it first, or use one of {', '.join(sorted(_shipped()))}."
        ) from error


def _shipped() -> dict[str, dict[str, Any]]:
    """Return model -> the values of its configuration."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in SHIPPED.glob("*.json")]
    return {file["model"]: file["config"] for file in files}
