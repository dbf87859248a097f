"""One call of a base, prepared: what the base is given, who hears where, and what comes back in the caller's columns.

In: prompts (B, L), what is to be heard of them, perhaps encoded pictures and a kept prefix. Without audio, or with the
gate at 0, the base gets its inputs as they are and nothing else happens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from supervised.adapter import Adapter
from supervised.base import embedding_width, generator, keeps_state, resolve_stack
from supervised.config import FusionConfig
from supervised.encoders.features import AudioFeatures
from supervised.errors import ConfigError, ModelError
from supervised.injection import Heard, check_layers, hearing
from supervised.layout import Layout
from supervised.obstacles import counts_attended, insertion_obstacle
from supervised.pictures import Pictures, without_pixels
from supervised.prefix import Prefix, forget_positions


@dataclass(frozen=True)
class Asked:
    """What a caller wants heard."""

    audio: AudioFeatures | None = None
    gate: float = 1.0
    prompt_mask: Tensor | None = None
    """bool (B, L); None: everything is prompt."""
    budget: int | None = None
    prefix: Prefix | None = None

    def check(self, inputs: Mapping[str, Any], images: Any, tokens: int) -> None:
        """Refuse what cannot be heard of prompts and pictures with a projector of `tokens` tokens.

        Raises:
            ConfigError: the gate is outside [0, 1], or the budget above the number of tokens.
            ModelError: audio, prompt mask or prefix are of another kind or shape, or of other prompts or pictures.
        """
        if "input_ids" not in inputs:
            raise ModelError("the inputs hold no input_ids; give what SafeModel.inputs(samples) returns.")
        ids, gate, budget = inputs["input_ids"], self.gate, self.budget  # (B, L)
        if not isinstance(gate, (float, int)) or not 0 <= gate <= 1:  # a tensor would cost a sync per call
            raise ConfigError(f"gate must be a number in [0, 1], got {gate}; 0 is the base alone, 1 all of the audio.")
        if budget is not None and not (isinstance(budget, int) and 1 <= budget <= tokens):
            raise ConfigError(
                f"budget must be a number of audio tokens from 1 to {tokens}, got {budget}; leave it out for all."
            )
        given: object = self.audio
        if given is not None and not isinstance(given, AudioFeatures):
            raise ModelError(
                f"audio must be what SafeModel.encode_audio(clips) returns, got {type(given).__name__}; "
                "encode the clips first, or give None."
            )
        if self.audio is not None and len(self.audio) != len(ids):
            raise ModelError(
                f"{len(self.audio)} audio rows for {len(ids)} questions; give one per question, None for none."
            )
        if self.prompt_mask is not None and self.prompt_mask.shape != ids.shape:
            raise ModelError(
                f"prompt_mask has shape {list(self.prompt_mask.shape)}, the prompts {list(ids.shape)}; make them equal."
            )
        if self.prefix is not None and not self.prefix.belongs_to(inputs, images):
            raise ModelError("the prefix was kept for other prompts or pictures; keep one for these, or leave it out.")

    @property
    def silent(self) -> bool:
        """Return whether there is nothing to hear, so that the base runs alone."""
        return self.audio is None or self.gate == 0 or not bool(self.audio.present.any())


@dataclass
class Call:
    """A prepared call."""

    arguments: dict[str, Any]
    """Of the base."""
    length: int
    """Columns of the caller's prompts."""
    heard: Heard | None = None
    """None: the base runs alone."""
    layout: Layout | None = None
    """Columns that the base works in; None: those of the caller."""
    inserted: int = 0
    """Audio tokens that stand in the layout."""
    adapter: Adapter | None = None
    layers: tuple[int, ...] = ()

    def hearing(self, stack: Any) -> AbstractContextManager[None]:
        """Return the block within which the base hears."""
        if self.heard is None or self.adapter is None:
            return nullcontext()
        return hearing(stack, self.adapter, self.heard, self.layers)

    def settings(
        self, base: Any, max_new_tokens: int, num_beams: int, use_cache: bool, output_hidden_states: bool
    ) -> Any:
        """Return the base's own generation settings without sampling, and repeat a kept cache for the beams.

        Raises:
            ConfigError: no new token, or no beam.
        """
        for name, value in (("max_new_tokens", max_new_tokens), ("num_beams", num_beams)):
            if not (isinstance(value, int) and value >= 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}; use e.g. 1.")
        settings = copy.deepcopy(generator(base).generation_config)
        settings.update(
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=num_beams,
            max_length=None,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            prefill_chunk_size=None,  # broken in most bases themselves
            # Static caches make transformers compile the decoding on CUDA; compiled code would keep a hook for ever.
            disable_compile=settings.disable_compile or self.heard is not None,
            return_dict_in_generate=True,
            output_logits=True,
            output_hidden_states=output_hidden_states,
        )
        if num_beams > 1 and "past_key_values" in self.arguments:  # `generate` repeats all other arguments itself
            self.arguments["past_key_values"].batch_repeat_interleave(num_beams)
        return settings

    def keep(self, wanted: int | Tensor) -> int | Tensor:
        """Return which logits to ask the base for, if the caller wants the last n, or those at some columns.

        Raises:
            ModelError: columns are named, and audio tokens stand between them.
        """
        if self.layout is None or (isinstance(wanted, int) and wanted == 0):
            return wanted
        if isinstance(wanted, Tensor):
            raise ModelError("with inserted audio tokens logits_to_keep must be a number; give how many to keep.")
        return wanted + (self.inserted if bool(self.layout.new[:, -wanted:].any()) else 0)

    def answered(self, output: Any, ids: Tensor) -> Any:
        """Return what `generate` gave, with the caller's prompts `ids` (B, L) before the answers."""
        if self.layout is not None:
            output.sequences = torch.cat([ids, output.sequences[:, self.layout.source.shape[1] :]], 1)
            if self.inserted and output.get("hidden_states"):
                first, *steps = output.hidden_states
                output.hidden_states = (tuple(self.layout.restore(states) for states in first), *steps)
        return output

    def forwarded(self, output: Any, wanted: int | Tensor) -> Any:
        """Return what a forward pass gave, in the caller's columns; `wanted` as for `keep`."""
        if self.layout is not None and isinstance(wanted, int):
            output.logits = self.layout.restore(output.logits, wanted)
            if output.get("hidden_states"):
                output.hidden_states = tuple(self.layout.restore(states) for states in output.hidden_states)
        return output


class Calls:
    """Prepares the calls of one base under one configuration of the fusion.

    Raises:
        ModelError: this base cannot hear in the way the configuration asks for, and why.
    """

    def __init__(self, base: Any, fusion: FusionConfig) -> None:
        self.base, self.fusion, self.pictures = base, fusion, Pictures(base)
        self.layers = tuple(fusion.layers)
        check_layers(resolve_stack(base), self.layers, embedding_width(base))
        if fusion.injection == "tokens" and (reason := insertion_obstacle(base)) is not None:
            raise ModelError(
                f"base {type(base).__name__} takes no inserted audio tokens: {reason}; use fusion.injection residual."
            )
        if fusion.scope == "suffix" and not self.pictures.tokens:
            raise ModelError(
                f"base {type(base).__name__} does not tell which token stands for a picture, so the question after it "
                "cannot be found; use fusion.scope prompt."
            )

    def prepare(self, inputs: Mapping[str, Any], adapter: Adapter, asked: Asked, images: Any = None) -> Call:
        """Return the call of `inputs` in which `asked` is heard; it was checked before."""
        length = inputs["input_ids"].shape[1]
        if asked.silent or asked.audio is None:  # a kept prefix would not give the base's bits
            return Call(self.pictures.arguments(inputs, images), length)
        asked = replace(asked, audio=asked.audio.to(self.base.device))
        ends = self.pictures.ends(inputs["input_ids"])
        call = self._inserting(inputs, adapter, asked, ends) if self.fusion.injection == "tokens" else None
        call = call or self._fusing(inputs, asked, ends)
        call.adapter, call.layers = adapter, self.layers
        if asked.prefix is not None and (asked.prefix.even or self._bears_gaps):
            self._continue(call, asked.prefix)
        else:
            call.arguments = self.pictures.arguments(call.arguments, images)
        return call

    @cached_property
    def _bears_gaps(self) -> bool:
        """Return whether padding may stand between picture and question; without that, uneven rows are read whole."""
        return counts_attended(self.base)

    def _fusing(self, inputs: Mapping[str, Any], asked: Asked, ends: Tensor) -> Call:
        """Return a call in which positions of the prompts hear."""
        ids, attended = inputs["input_ids"], inputs.get("attention_mask")
        where = torch.ones_like(ids, dtype=torch.bool) if attended is None else attended.bool()  # (B, L)
        if asked.prompt_mask is not None:
            where = where & asked.prompt_mask.to(where.device)
        first = 0
        if self.fusion.scope == "suffix":
            where = where & (torch.arange(ids.shape[1], device=ids.device) >= ends[:, None])
            first = int(ends.min())
        assert asked.audio is not None
        heard = Heard(asked.audio, float(asked.gate), where, asked.budget, first=first)
        return Call(dict(inputs), ids.shape[1], heard)

    def _inserting(self, inputs: Mapping[str, Any], adapter: Adapter, asked: Asked, ends: Tensor) -> Call:
        """Return a call with audio tokens after each row's picture, or after its first token where it has none.

        Rows without audio have them, too, because rows have one length; nothing attends to them.
        """
        assert asked.audio is not None
        ids, attended = inputs["input_ids"], inputs.get("attention_mask")
        tokens, mask = adapter.tokens(asked.audio, asked.budget)  # (B, T, D), (B, T)
        begins = torch.zeros_like(ends) if attended is None else attended.int().argmax(1).to(ends)
        at = torch.where(ends > 0, ends, begins + 1)
        layout = Layout.inserting(at, tokens.shape[1], ids.shape[1])
        arguments = layout.arguments(inputs, self._placeholder())
        shown = mask & asked.audio.present[:, None]  # (B, T)
        mask = arguments["attention_mask"].masked_scatter(layout.new, shown.to(arguments["attention_mask"]))
        positions = (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)
        arguments |= {"attention_mask": mask, "position_ids": positions}
        heard = Heard(
            asked.audio, float(asked.gate), layout.new, asked.budget, first=int(at.min()), inserted=tokens.float()
        )
        return Call(arguments, ids.shape[1], heard, layout, tokens.shape[1])

    def _continue(self, call: Call, prefix: Prefix) -> None:
        """Let `call` go on from `prefix`."""
        assert call.heard is not None
        arguments, ends, begins = without_pixels(call.arguments), prefix.ends, prefix.begins
        if prefix.even:  # columns before the picture's end are those of the caller, inserted tokens or not
            layout, columns = None, int(ends[0])
        else:
            layout, columns = Layout.aligning(begins, ends, arguments["input_ids"].shape[1])
            arguments.pop("position_ids", None)  # made by `generate` from the mask
            arguments = layout.arguments(arguments, self._placeholder())
            call.heard = replace(call.heard, where=layout.spread(call.heard.where, False), first=columns)
            call.layout = layout if call.layout is None else Layout(layout.spread(call.layout.source, -1))
        if keeps_state(self.base):
            forget_positions(self.base)
        call.heard = replace(call.heard, start=columns)
        call.arguments = arguments | {"past_key_values": prefix.cache(layout, columns)}

    def _placeholder(self) -> int:
        """Return a token that stands for no piece of a picture; its embedding is replaced, or not attended to."""
        padding = self.base.generation_config.pad_token_id
        candidates = [*([] if padding is None else [int(padding)]), *range(len(self.pictures.tokens) + 1)]
        return next(token for token in candidates if token not in self.pictures.tokens)
