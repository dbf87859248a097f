"""The key-value cache of a prompt's picture, kept from the plain pass for the pass with audio.

In: what `generate` returned for plain prompts. Out: the keys and values of every column up to the last token of a
picture, from which a pass with audio goes on with the question alone. That is right only where positions before the
question can neither hear nor see what comes after them: with `fusion.scope` suffix (or inserted tokens) and a causal
text stack. Numbers differ from those of a whole pass in the last bits (1e-7 in float32), because shorter matrices are
multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supervised.errors import ModelError
from supervised.layout import Layout


@dataclass(frozen=True)
class Prefix:
    """Keys and values of prompts (B, L) up to the last token of a picture in each row."""

    inputs: dict[str, Any]
    """What the base was given: `input_ids` int64 (B, L), pixels and their sizes, the attention mask."""
    images: Any
    """The encoded pictures, where `inputs` has no pixels; else None."""
    begins: Tensor
    """int64 (B,): the first column of each prompt, after its padding."""
    ends: Tensor
    """int64 (B,): the first column of each question, after the picture."""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values (B, H, E, d) of every layer, E = largest of `ends`."""

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def even(self) -> bool:
        """Return whether all rows have their question in the same column, as rows of one prompt length have."""
        return bool((self.ends == self.ends[0]).all())

    def belongs_to(self, inputs: Mapping[str, Any], images: Any = None) -> bool:
        """Return whether this was kept for these prompts and pictures; encoded ones count where there are no pixels."""
        given, images = _shown(inputs, images)
        return (
            images is self.images
            and given.keys() == self.inputs.keys()
            and all(_same(value, self.inputs[name]) for name, value in given.items())
        )

    def cache(self, layout: Layout | None, columns: int) -> Any:
        """Return a new cache of the first `columns` columns of the prompts, or of `layout`.

        Growing makes new tensors, so that one prefix serves several calls without copies.
        """
        from transformers import DynamicCache

        if layout is None:
            return DynamicCache([(key[:, :, :columns], value[:, :, :columns]) for key, value in self.layers])
        source = layout.source[:, :columns].clamp(min=0)[:, None, :, None]  # (B, 1, P, 1)
        return DynamicCache(
            [
                (
                    key.gather(2, source.expand(-1, key.shape[1], -1, key.shape[3])),
                    value.gather(2, source.expand(-1, value.shape[1], -1, value.shape[3])),
                )
                for key, value in self.layers
            ]
        )


def keep_prefix(inputs: Mapping[str, Any], output: Any, ends: Tensor, images: Any = None) -> Prefix | None:
    """Return the part of a plain `output` of `generate` that a pass with audio can use; None: no row has a picture.

    Args:
        inputs: what `generate` was given.
        output: what it returned, without audio.
        ends: from `Pictures.ends`.
        images: the encoded pictures that it was given, if any.

    Raises:
        ModelError: the output has no cache, or is of other inputs or of a pass with inserted tokens.
    """
    ids = inputs["input_ids"]  # (B, L)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise ModelError("the output has no key-value cache to keep; generate it with use_cache=True.")
    # Beams may have gone on longer than the best of them is; logits tell the steps.
    steps = len(output.get("logits") or ()) or output.sequences.shape[1] - ids.shape[1]
    if cache.get_seq_length() != ids.shape[1] + steps - 1 or not torch.equal(output.sequences[:, : ids.shape[1]], ids):
        raise ModelError("the output does not belong to these inputs without audio; give those it was generated from.")
    columns = int(ends.max())
    if columns == 0:
        return None
    attended = inputs.get("attention_mask")
    begins = torch.zeros_like(ends) if attended is None else attended.int().argmax(1).to(ends)
    ends = torch.where(ends > 0, ends, begins)  # without a picture the question begins at once
    layers = []
    for layer in cache.layers:
        beams = len(layer.keys) // len(ids)  # they share their prompt
        layers.append((layer.keys[::beams, :, :columns], layer.values[::beams, :, :columns]))
    return Prefix(*_shown(inputs, images), begins, ends, tuple(layers))


def _shown(inputs: Mapping[str, Any], images: Any) -> tuple[dict[str, Any], Any]:
    """Return what tells one call's prompts and pictures from another's; the pixels tell more than what encodes them."""
    given = {name: value for name, value in inputs.items() if value is not None}
    return given, None if any(name.startswith("pixel_") for name in given) else images


def _same(one: Any, other: Any) -> bool:
    """Return whether two arguments of a base have the same values; some processors give pixels as a list of tensors."""
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other)


def forget_positions(base: Any) -> None:
    """Let a base that keeps the offset of its positions on its modules (Qwen) compute it anew from the next inputs."""
    for module in base.modules():
        if hasattr(module, "rope_deltas"):
            module.rope_deltas = None
