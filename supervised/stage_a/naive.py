"""The naive way, a baseline: the base's text stack was trained too, and becomes a base of its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from supervised.base import resolve_stack, weights_sha256
from supervised.errors import ConfigError
from supervised.safe_model import SafeModel


def trainable_stack(base: Any) -> nn.Module:
    """Return the base's text stack, to be trained but for its word embeddings: their size is the adapter's unit.

    Raises:
        ConfigError: the base is not float32, where most updates would be rounded away.
    """
    if base.dtype != torch.float32:
        given = str(base.dtype).removeprefix("torch.")
        raise ConfigError(
            f"stage_a.train_base trains a base in float32, but this one is in {given}; set model.dtype to float32, "
            "or stage_a.train_base to false."
        )
    stack: nn.Module = resolve_stack(base).requires_grad_(True)
    base.get_input_embeddings().requires_grad_(False)
    return stack


def write_base(model: SafeModel, folder: Path) -> None:
    """Write the trained base with its processor to `folder`; the adapter that is saved next fits that base."""
    temporary = folder.with_name(f".{folder.name}.new")
    for old in (temporary, folder):
        shutil.rmtree(old, ignore_errors=True)
    model.base.save_pretrained(temporary)
    model.processor.save_pretrained(temporary)
    temporary.rename(folder)
    model.fit = replace(model.fit, base_sha256=weights_sha256(model.base))
