from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from supervised.config import ModelConfig
from supervised.encoders.features import AudioFeatures
from supervised.errors import ConfigError
from supervised.safe_model import SafeModel

Setting = tuple[SafeModel, Any, AudioFeatures]
Bits = Callable[[torch.Tensor], torch.Tensor]
SameBits = Callable[[Any, Any], bool]
BaseGenerate = Callable[[SafeModel, Any], Any]


@torch.no_grad()
def test_a_budget_is_the_adapter_that_has_only_so_many_tokens(plain: Setting, tiny_config: ModelConfig) -> None:
    model, inputs, audio = plain
    few = SafeModel.attach(replace(tiny_config, projector=replace(tiny_config.projector, tokens=4)))
    state = model.adapter.state_dict()
    for name in ("projector.queries", "projector.codes"):
        state[name] = state[name][:4]
    few.adapter.load_state_dict(state)
    torch.testing.assert_close(
        model.forward(inputs, audio, budget=4).logits, few.forward(inputs, audio).logits, rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_all_tokens_are_the_largest_budget_and_smaller_ones_say_something_else(plain: Setting, bits: Bits) -> None:
    model, inputs, audio = plain
    every = model.forward(inputs, audio).logits
    assert torch.equal(bits(model.forward(inputs, audio, budget=8).logits), bits(every))
    less = model.forward(inputs, audio, budget=1).logits
    assert not torch.allclose(less[:4], every[:4], atol=1e-3)
    assert torch.equal(bits(less[4]), bits(every[4]))  # the row without audio


@torch.no_grad()
def test_tokens_made_before_give_what_tokens_made_on_the_way_give(plain: Setting) -> None:
    model, inputs, audio = plain
    made = model.project(audio)
    assert made.spoken is not None
    assert made.spoken.shape == (6, 8, 32)
    for budget in (None, 1, 4):
        torch.testing.assert_close(
            model.forward(inputs, made, budget=budget).logits,
            model.forward(inputs, audio, budget=budget).logits,
            rtol=1e-4,
            atol=1e-4,
        )
    rows = model.generate({name: value[:3] for name, value in inputs.items()}, made.rows([0, 1, 2]), num_beams=2)
    assert len(rows.sequences) == 3


def test_with_a_budget_and_gate_zero_answers_are_the_bases_bit_for_bit(
    setting: Setting, same_bits: SameBits, base_generate: BaseGenerate
) -> None:
    model, inputs, audio = setting
    assert same_bits(model.generate(inputs, audio, gate=0.0, budget=4), base_generate(model, inputs))


@pytest.mark.parametrize("budget", [0, 9, 4.0])
def test_a_budget_that_is_no_number_of_tokens_is_refused(plain: Setting, budget: Any) -> None:
    model, inputs, audio = plain
    with pytest.raises(ConfigError, match=r"budget must be a number of audio tokens from 1 to 8, got"):
        model.generate(inputs, audio, budget=budget)
