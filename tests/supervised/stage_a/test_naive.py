from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from supervised.base import weights_sha256
from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.safe_model import SafeModel
from supervised.stage_a.config import GuardConfig, LossConfig, StageAConfig
from supervised.stage_a.training import train_stage_a

CONFIG = StageAConfig(
    steps=12,
    batch_size=8,
    warmup_steps=0,
    gate_warmup_steps=0,
    fusion_lr=0.01,
    projector_lr=0.01,
    eval_every=6,
    checkpoint_every=4,
    train_base=True,
    loss=LossConfig(distill=0.0, feature=0.0),
    guard=GuardConfig(max_drop=1.0, on_breach="go_on"),
)


def attach(base: Path, encoder: Path) -> SafeModel:
    torch.manual_seed(0)
    return SafeModel.attach(ModelConfig(base=str(base), encoder=str(encoder)))


def test_the_trained_base_and_its_adapter_are_written_and_belong_together(
    tiny_base_dir: Path, tiny_encoder_dir: Path, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    model = attach(tiny_base_dir, tiny_encoder_dir)
    before = weights_sha256(model.base)
    result = train_stage_a(model, tiny_samples, tiny_samples, CONFIG, tmp_path, progress=False)
    assert weights_sha256(model.base) != before
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-2]["task_loss"] < losses[0]["task_loss"]
    again = SafeModel.from_pretrained(result.adapter, base=str(tmp_path / "base"), encoder=str(tiny_encoder_dir))
    assert weights_sha256(again.base) == weights_sha256(model.base)
    with pytest.raises(ValueError, match=r"the adapter is for a base with weights \w+, this one has \w+"):
        SafeModel.from_pretrained(result.adapter, base=str(tiny_base_dir), encoder=str(tiny_encoder_dir))


def test_an_interrupted_naive_run_goes_on_bit_for_bit_and_compares_with_the_untrained_base(
    tiny_base_dir: Path, tiny_encoder_dir: Path, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    whole = attach(tiny_base_dir, tiny_encoder_dir)
    expected = train_stage_a(whole, tiny_samples, tiny_samples, CONFIG, tmp_path / "whole", progress=False)
    model, steps = attach(tiny_base_dir, tiny_encoder_dir), iter(range(1, 100))

    def interrupt(*_: object) -> None:
        if torch.is_grad_enabled() and next(steps) == 9:
            raise KeyboardInterrupt

    handle = model.base.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt, match="at step 8 of 12"):
        train_stage_a(model, tiny_samples, tiny_samples, CONFIG, tmp_path / "parts", progress=False)
    handle.remove()
    fresh = attach(tiny_base_dir, tiny_encoder_dir)
    result = train_stage_a(fresh, tiny_samples, tiny_samples, CONFIG, tmp_path / "parts", resume=True, progress=False)
    assert replace(result, adapter=expected.adapter) == expected
    assert weights_sha256(fresh.base) == weights_sha256(whole.base)
    assert weights_sha256(fresh.adapter) == weights_sha256(whole.adapter)
