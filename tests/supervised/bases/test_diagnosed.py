"""What diagnostics read is told by every family: the prompt's states of all layers, and the adapter's work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from supervised.diagnostics.observing import states_of
from supervised.diagnostics.recording import recording


@pytest.mark.shows("diagnostics")
def test_states_and_attention_are_told(setting: Any) -> None:
    with recording(setting.model.adapter) as seen:
        output = setting.model.generate(setting.inputs, setting.audio, max_new_tokens=1, output_hidden_states=True)
    states = states_of(output)
    assert len(states) >= 2
    assert {tuple(state.shape[:2]) for state in states} == {tuple(setting.inputs["input_ids"].shape)}
    (fused,) = seen
    assert fused.untouched
    assert not bool(fused.hears[-1].any())  # the last question has no sound
    assert 0 < float(fused.ratio[fused.hears].mean()) < float("inf")
    torch.testing.assert_close(fused.attended.weights.sum(-1), torch.ones(fused.attended.weights.shape[:-1]))
