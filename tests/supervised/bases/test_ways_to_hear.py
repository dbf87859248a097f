"""Every family with a kept prefix, with inserted tokens and with layers that hear: it works, or the reason is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from supervised.config import FusionConfig
from supervised.errors import ModelError
from supervised.obstacles import insertion_obstacle
from supervised.parts import new_adapter
from supervised.safe_model import SafeModel

ENCODER = "its language model reads prompts with an encoder"
OWN = "it brings a generate of its own"
CAUSAL = "its attention is not causal within the prompt"
TYPES = "its attention depends on the type of every token"
ROPE = r"its positions have three dimensions"
CACHE = "its cache does not hold every position"
NO_PREFIX = {
    **dict.fromkeys(("blip_2_opt", "instructblip_opt", "instructblipvideo"), OWN),
    **dict.fromkeys(("blip_2_t5", "instructblip_t5", "florence2"), ENCODER),
    **dict.fromkeys(("paligemma", "gemma3", "shieldgemma2"), CAUSAL),
}
NO_TOKENS = {
    **NO_PREFIX,
    **dict.fromkeys(("paligemma", "gemma3", "shieldgemma2"), TYPES),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), ROPE),
}
NARROW = ("blip_2_opt", "instructblip_opt", "instructblipvideo")
"""Language models whose embeddings are narrower than their layers."""


TOKENS: dict[str, Any] = {"injection": "tokens", "residual_scale": FusionConfig().residual_scale}
"""Inserted tokens pass no fusion, so that a louder one is refused."""


def _model(setting: Any, **fusion: Any) -> SafeModel:
    """Return a model on the same base that hears in another way."""
    known = setting.model
    config = replace(known.config, fusion=replace(known.config.fusion, **fusion))
    torch.manual_seed(5)
    return SafeModel(known.base, None, known.encoder, new_adapter(config, known.fit, known.base), config, known.fit)


def _compare(setting: Any, first: Any, second: Any, row: int | None = None) -> None:
    """Make sure that the first steps have the same logits, but for the last bits."""
    a, b = (output.logits[0] if row is None else output.logits[0][row] for output in (first, second))
    assert a.isfinite().all()
    if setting.base.dtype == torch.float32:  # random weights blow up the rounding of bfloat16
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.shows("kept prefix")
def test_a_pass_goes_on_from_a_kept_prefix_or_the_reason_is_named(
    setting: Any, record_property: Callable[[str, object], None]
) -> None:
    model, inputs, audio = _model(setting, scope="suffix"), setting.inputs, setting.audio
    plain = model.generate(inputs, max_new_tokens=3)
    if (reason := model.prefix_obstacle) is not None:
        record_property("shown", "refused")
        assert reason.startswith(NO_PREFIX.get(setting.family.name, CACHE))
        with pytest.raises(ModelError, match=f"cannot keep a prefix: {reason[:20]}"):
            model.keep_prefix(inputs, plain)
        return
    assert setting.family.name not in NO_PREFIX
    prefix = model.keep_prefix(inputs, plain)
    assert prefix is not None
    whole = model.generate(inputs, audio, max_new_tokens=3)
    words = torch.tensor([[5, 6, 7]])
    other = {name: words if name == "input_ids" else torch.ones_like(words) for name in ("input_ids", "attention_mask")}
    model.generate(other, max_new_tokens=1)  # another call between the two passes
    kept = model.generate(inputs, audio, max_new_tokens=3, prefix=prefix)
    _compare(setting, kept, whole)
    if setting.base.dtype == torch.float32:
        assert torch.equal(kept.sequences, whole.sequences)
        assert not torch.allclose(whole.logits[0][:-1], plain.logits[0][:-1])


@pytest.mark.shows("inserted tokens")
def test_audio_tokens_can_be_inserted_or_the_reason_is_named(
    setting: Any, record_property: Callable[[str, object], None]
) -> None:
    base, inputs, audio = setting.base, setting.inputs, setting.audio
    if (reason := insertion_obstacle(base)) is not None:
        record_property("shown", "refused")
        expected = NO_TOKENS.get(setting.family.name)
        assert reason.startswith((expected,) if expected else (CACHE, ROPE, TYPES, "its positions count padding"))
        with pytest.raises(ModelError, match=r"takes no inserted audio tokens: .*; use fusion\.injection residual"):
            _model(setting, **TOKENS)
        return
    assert setting.family.name not in NO_TOKENS
    model = _model(setting, **TOKENS)
    plain, heard = model.generate(inputs, max_new_tokens=3), model.generate(inputs, audio, max_new_tokens=3)
    assert not torch.allclose(heard.logits[0][:-1], plain.logits[0][:-1])
    _compare(setting, heard, plain, row=-1)  # nothing attends to the tokens of a row without audio
    _compare(setting, model.generate(inputs, audio, max_new_tokens=3, use_cache=False), heard)


@pytest.mark.shows("layers")
def test_layers_hear_or_the_reason_is_named(setting: Any, record_property: Callable[[str, object], None]) -> None:
    inputs, audio = setting.inputs, setting.audio
    if setting.family.name in NARROW:
        record_property("shown", "refused")
        with pytest.raises(ModelError, match="the layers of the base's text stack are 32 wide, its embeddings 16"):
            _model(setting, layers=(0, 1))
        return
    model = _model(setting, layers=(0, 1))
    plain, heard = model.generate(inputs, max_new_tokens=3), model.generate(inputs, audio, max_new_tokens=3)
    assert not torch.equal(heard.logits[0][:-1], plain.logits[0][:-1])
    if not setting.family.experts:
        assert torch.equal(heard.logits[0][-1], plain.logits[0][-1])
