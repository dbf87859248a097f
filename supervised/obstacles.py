"""Whether a base can hear in other ways than by fusion alone: with a kept prefix, or with inserted audio tokens.

In: a base. Out: None, or the reason why not, for an error message. Some reasons are found in signatures and
configurations, one by trying.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch

from supervised.base import LOAD_ERRORS, has_encoder, keeps_state, one_at_a_time, resolve_stack
from supervised.config import FusionConfig
from supervised.injection import hooked

_GAP = [1, 1, 0, 1, 1]


def prefix_obstacle(base: Any, fusion: FusionConfig) -> str | None:
    """Return why a pass with audio cannot go on from a plain pass's cache, or None: it can."""
    if fusion.scope == "prompt" and fusion.injection == "residual":
        return "with fusion.scope prompt the picture's positions hear, too; use suffix"
    # Gemma and PaliGemma let the positions of a prompt, or of a picture, see what comes after them.
    bidirectional = getattr(base.config.get_text_config(), "use_bidirectional_attention", False)
    if bidirectional or "token_type_ids" in inspect.signature(base.forward).parameters:
        return "its attention is not causal within the prompt"
    return _no_plain_decoder(base)


def insertion_obstacle(base: Any) -> str | None:
    """Return why audio tokens cannot stand in this base's prompts, or None: they can."""
    parameters = inspect.signature(base.forward).parameters
    if keeps_state(base):
        return "its positions have three dimensions, computed from the places of the pictures (mrope)"
    if "token_type_ids" in parameters or "mm_token_type_ids" in parameters:
        return "its attention depends on the type of every token (token_type_ids)"
    if (reason := _no_plain_decoder(base)) is not None:
        return reason
    if not counts_attended(base):
        return "its positions count padding between tokens"
    return None


@torch.no_grad()
def counts_attended(base: Any) -> bool:
    """Return whether positions count attended tokens only, so that padding may stand within a prompt; found by trying.

    A few words are read with a gap between them. Where the stack is given no positions, it counts columns.
    """
    stack = resolve_stack(base)
    picture = getattr(base.config, "image_token_id", None)
    word = next(token for token in range(3, 6) if token != picture)
    mask = torch.tensor([_GAP], device=stack.device)
    seen: list[Any] = []
    thread = threading.get_ident()  # others may be calling the base meanwhile

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is not None and threading.get_ident() == thread:
            seen.append(kwargs.get("position_ids"))

    try:
        with hooked(each.register_forward_pre_hook(note, with_kwargs=True) for each in (stack,)), one_at_a_time(base):
            base.generate(input_ids=torch.full_like(mask, word), attention_mask=mask, max_new_tokens=1, do_sample=False)
    except LOAD_ERRORS:
        return False
    if not seen or seen[0] is None:
        return False
    steps = seen[0][..., mask[0].bool()].diff(dim=-1)
    return bool((steps == 1).all())


def _no_plain_decoder(base: Any) -> str | None:
    """Return what keeps a base from being a decoder whose cache holds every position of the prompt, or None."""
    from transformers import DynamicCache, GenerationMixin
    from transformers.cache_utils import DynamicLayer

    if has_encoder(base):
        return "its language model reads prompts with an encoder, which is not causal"
    if type(base).generate is not GenerationMixin.generate:
        return "it brings a generate of its own, which builds its prompts itself"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=base.config).layers):
        return "its cache does not hold every position (sliding windows or recurrent states)"
    return None
