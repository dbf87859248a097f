"""Whether audio can enter a base, found out by trying when an adapter is attached.

In: a base and its text stack; perhaps the inputs of a question with a picture. Out: nothing, or a `ModelError` that
names the reason. A forward pass and the first step of `generate` run twice each on a few tokens, once with other
embeddings: a base that passes its merged embeddings to the stack by name, one per token, and answers from them can
hear; any other would answer as if there were no audio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from supervised.base import first_line, has_encoder, language_model
from supervised.errors import ModelError

REMEDY = "give a model that merges pictures into its embeddings, e.g. a LLaVA"


@torch.no_grad()
def probe(base: Any, stack: Any, picture: Mapping[str, Any] | None = None) -> None:
    """Make sure that audio can enter: the base passes its embeddings to `stack` by name, and their values count.

    Args:
        base: frozen and in eval mode.
        stack: from `resolve_stack`.
        picture: inputs of one question with a picture, as the processor makes them, for bases that cannot answer
            without one and to see what a picture does to the sequence; None: words alone.

    Raises:
        ModelError: it does not, and why.
    """
    name = f"base {type(base).__name__}"
    try:
        _try(base, stack, _words(base), name)
    except ModelError:
        raise
    except Exception as error:  # whatever a foreign base may raise
        if picture is None:
            raise ModelError(f"{name} cannot answer a text-only probe ({first_line(error)}); {REMEDY}.") from error
    if picture is None:
        return
    try:
        _try(base, stack, dict(picture), name)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name} cannot answer about a picture ({first_line(error)}); {REMEDY}.") from error


def _try(base: Any, stack: Any, inputs: dict[str, Any], name: str) -> None:
    """Run forward and generate on `inputs`, plainly and with other embeddings."""
    decoder = {}
    if has_encoder(base):
        start = getattr(language_model(base).config, "decoder_start_token_id", None) or 0
        decoder["decoder_input_ids"] = torch.full((len(inputs["input_ids"]), 1), start, device=base.device)
    _compare(stack, inputs, name, lambda: base(**inputs, **decoder).logits)
    settings = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    _compare(stack, inputs, f"{name}'s generate", lambda: base.generate(**inputs, **settings).logits[0])


def _compare(stack: Any, inputs: Mapping[str, Any], name: str, answer: Callable[[], Tensor]) -> None:
    """Refuse a base whose `answer` does not follow from the embeddings that `stack` is given."""
    seen: list[Tensor | None] = []

    def move(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        hidden = kwargs.get("inputs_embeds")
        seen.append(hidden)
        # Reversed channels: a vector of the same size that means something else.
        return None if hidden is None else (args, {**kwargs, "inputs_embeds": hidden.flip(-1)})

    plain = answer()
    handle = stack.register_forward_pre_hook(move, with_kwargs=True)
    try:
        moved = answer()
    finally:
        handle.remove()
    text = type(stack).__name__
    if not seen or seen[0] is None:
        raise ModelError(
            f"{name} does not pass inputs_embeds to its text stack {text}, so audio cannot enter; {REMEDY}."
        )
    if len(seen) > 1:
        raise ModelError(f"{name} calls its text stack {text} {len(seen)} times for one answer; {REMEDY}.")
    shape = tuple(inputs["input_ids"].shape)
    if tuple(seen[0].shape[:2]) != shape:
        raise ModelError(
            f"{name} gives its text stack {text} embeddings of shape {list(seen[0].shape)} for token ids of shape "
            f"{list(shape)}, so positions cannot be told; {REMEDY}."
        )
    if torch.equal(plain, moved):
        raise ModelError(f"{name} does not answer from the embeddings its text stack {text} is given; {REMEDY}.")


def _words(base: Any) -> dict[str, Tensor]:
    """Return a prompt of three words, none of which means something to the configuration."""
    special = {
        value
        for config in (base.config, base.config.get_text_config())
        for key, value in config.to_dict().items()
        if key.endswith(("_token_id", "_token_index"))
        for value in (value if isinstance(value, list) else [value])
    }
    rows = base.get_input_embeddings().weight.shape[0]
    words = [i for i in range(1, rows) if i not in special][:3]
    ids = torch.tensor([words], device=base.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
