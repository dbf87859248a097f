from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import torch

from supervised.config import FusionConfig
from supervised.obstacles import counts_attended, insertion_obstacle, prefix_obstacle
from supervised.safe_model import SafeModel

SUFFIX = FusionConfig(scope="suffix")


def _without_positions(model: SafeModel) -> Any:
    """Return the tiny base as it would be if it counted columns, as HyperCLOVA X does."""
    base = copy.deepcopy(model.base)
    kind = type(base)

    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        return kind.prepare_inputs_for_generation(self, *args, **kwargs) | {"position_ids": None}

    base.__class__ = type("Columns", (kind,), {"prepare_inputs_for_generation": prepare})
    return base


def test_a_llava_has_no_obstacles(tiny_model: SafeModel) -> None:
    assert prefix_obstacle(tiny_model.base, SUFFIX) is None
    assert insertion_obstacle(tiny_model.base) is None
    assert len(tiny_model.stack._forward_pre_hooks) == 0


def test_a_prefix_must_not_hear(tiny_model: SafeModel) -> None:
    reason = prefix_obstacle(tiny_model.base, FusionConfig())
    assert reason is not None
    assert "use suffix" in reason
    assert prefix_obstacle(tiny_model.base, FusionConfig(injection="tokens")) is None  # they come after the picture


def test_a_base_that_counts_columns_bears_no_gaps(tiny_model: SafeModel) -> None:
    base = _without_positions(tiny_model)
    assert not counts_attended(base)
    assert insertion_obstacle(base) == "its positions count padding between tokens"
    assert prefix_obstacle(base, SUFFIX) is None  # rows of one length need no gaps


def test_a_call_of_another_thread_does_not_count(tiny_model: SafeModel, tiny_samples: Any) -> None:
    inputs = tiny_model.inputs(tiny_samples)
    base, other = tiny_model.base, threading.Thread(target=tiny_model.generate, args=(inputs,))

    def interrupt(*_: Any) -> None:  # the other's prompts reach the stack while the trial's are on their way
        if not other.ident:
            other.start()
            other.join()

    handle = base.register_forward_pre_hook(interrupt)
    try:
        assert counts_attended(base)
    finally:
        handle.remove()
    assert other.ident


@torch.no_grad()
def test_uneven_rows_of_such_a_base_are_read_whole(tiny_model: SafeModel, tiny_samples: Any) -> None:
    config = replace(tiny_model.config, fusion=SUFFIX)
    base = _without_positions(tiny_model)
    model = SafeModel(base, tiny_model.processor, tiny_model.encoder, tiny_model.adapter, config, tiny_model.fit)
    inputs, audio = model.inputs(tiny_samples), model.encode_audio([sample.audio for sample in tiny_samples])
    prefix = model.keep_prefix(inputs, model.generate(inputs))
    whole, kept = model.generate(inputs, audio), model.generate(inputs, audio, prefix=prefix)
    assert all(torch.equal(a, b) for a, b in zip(whole.logits, kept.logits, strict=True))


def test_layers_that_forget_are_an_obstacle(tiny_model: SafeModel) -> None:
    base = copy.deepcopy(tiny_model.base)
    text = base.config.text_config
    text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    text.sliding_window = 4
    for reason in (prefix_obstacle(base, SUFFIX), insertion_obstacle(base)):
        assert reason == "its cache does not hold every position (sliding windows or recurrent states)"
