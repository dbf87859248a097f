"""The pictures in a base's prompts: encoded once for several passes, put in the place of pixels, found among tokens."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supervised.base import generator
from supervised.errors import ModelError

_TOKENS = ("image_token_id", "image_token_index", "video_token_id")


class Pictures:
    """How a base takes pictures."""

    def __init__(self, base: Any) -> None:
        """Look at the arguments and at the tokens of `base`; nothing in it changes."""
        self.base = base
        # transformers >= 5.18 takes encoded pictures, so that two passes can share them; None: it cannot.
        self._encoding: frozenset[str] | None = None
        encode = getattr(base.base_model, "get_image_features", None)  # families for films only have none
        takes = "mm_encoder_outputs" in inspect.signature(base.forward).parameters
        if encode is not None and takes and generator(base) is base:  # BLIP-2's own generate wants pixels
            names = inspect.signature(encode).parameters
            self._encoding = frozenset(names) - {"kwargs"}
        known = (getattr(base.config, name, None) for name in _TOKENS)
        self.tokens = {int(token) for token in known if token is not None}
        """Ids that stand for a piece of a picture."""

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any]) -> Any:
        """Return the pictures of `inputs` encoded, or None: there is none, or the base cannot share them."""
        if self._encoding is None or inputs.get("pixel_values") is None:
            return None
        arguments = {name: value for name, value in inputs.items() if name in self._encoding}
        return self.base.base_model.get_image_features(**arguments, return_dict=True)

    def arguments(self, inputs: Mapping[str, Any], images: Any) -> dict[str, Any]:
        """Return the base's arguments; encoded pictures replace the pixels.

        Raises:
            ModelError: this base takes no encoded pictures.
        """
        if images is None:
            return dict(inputs)
        if self._encoding is None:
            raise ModelError("this base cannot share encoded pictures; leave images out, or update transformers.")
        # A copy per call: beam search replaces the entries of what it is given.
        rest = {name: value for name, value in inputs.items() if name not in self._encoding or not _pixels(name)}
        return rest | {"mm_encoder_outputs": {"image": copy.copy(images)}}

    def ends(self, ids: Tensor) -> Tensor:
        """Return int64 (B,): the column after the last token of a picture in `ids` (B, L), 0 in rows without one."""
        places = torch.isin(ids, torch.tensor(sorted(self.tokens), dtype=ids.dtype, device=ids.device))  # (B, L)
        return (places * torch.arange(1, ids.shape[1] + 1, device=ids.device)).amax(1)


def without_pixels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without any pixels."""
    return {name: value for name, value in inputs.items() if not _pixels(name)}


def _pixels(name: str) -> bool:
    """Return whether an argument holds pixels or their mask; sizes and grids stay, positions may depend on them."""
    return name.startswith("pixel_")
