"""A base in bfloat16: the adapter learns in float32 beside it, and a run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import CONFIG, interrupted, lines, questions, run, traces

from supervised.config import ModelConfig
from supervised.errors import ConfigError
from supervised.safe_model import SafeModel
from supervised.stage_a.checkpoint import checkpoints
from supervised.stage_a.config import LossConfig

HALF = replace(
    CONFIG, batch_size=8, eval_every=7, projector_lr=0.02, fusion_lr=0.02, gate_lr=0.02, marker_lr=0.02, eval_samples=4
)


@pytest.fixture
def attach(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[[], SafeModel]:
    def make() -> SafeModel:
        torch.manual_seed(0)
        return SafeModel.attach(ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), dtype="bfloat16"))

    return make


def test_an_adapter_learns_in_float32_beside_a_base_in_bfloat16_and_a_run_goes_on_bit_for_bit(
    attach: Callable[[], SafeModel],
    tmp_path: Path,
    same_bits: Callable[[Any, Any], bool],
    base_generate: Callable[[SafeModel, Any], Any],
) -> None:
    model = attach()
    before = {name: value.clone() for name, value in model.base.state_dict().items()}
    assert {value.dtype for value in before.values() if value.is_floating_point()} == {torch.bfloat16}
    run(model, tmp_path / "whole", HALF)
    train = [line for line in lines(tmp_path / "whole") if line["kind"] == "train"]
    assert train[-1]["task_loss"] < 0.9 * train[0]["task_loss"]
    assert all(torch.equal(value, before[name]) for name, value in model.base.state_dict().items())
    asked = questions(4, 2)
    inputs, audio = model.inputs(asked), model.encode_audio([sample.audio for sample in asked])
    assert same_bits(model.generate(inputs, audio, gate=0.0, max_new_tokens=8), base_generate(model, inputs))
    assert not same_bits(model.generate(inputs, audio, gate=1.0, max_new_tokens=8), base_generate(model, inputs))
    assert {value.dtype for value in model.adapter.state_dict().values()} == {torch.float32}
    [kept] = checkpoints(tmp_path / "whole")
    numbers = {name: value for name, value in load_file(kept / "state.safetensors").items() if name != "random.torch"}
    assert {value.dtype for value in numbers.values()} == {torch.float32}  # values and moments

    interrupted(attach, tmp_path / "parts", HALF)
    run(attach(), tmp_path / "parts", HALF, resume=True)
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")


def test_a_base_in_bfloat16_is_not_trained_itself(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    naive = replace(HALF, train_base=True, loss=LossConfig(distill=0.0, feature=0.0))
    with pytest.raises(ConfigError, match=r"stage_a\.train_base .* bfloat16; set model\.dtype to float32"):
        run(attach(), tmp_path, naive)
    assert not list(tmp_path.iterdir())
