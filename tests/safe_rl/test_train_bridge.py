"""From a language model and a vision encoder on disk to a base that Stage A could take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safe_rl.train_bridge import main
from supervised.base import load_base


def _save_models(folder: Path) -> tuple[Path, Path]:
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModel,
        GPT2Config,
        GPT2LMHeadModel,
    )

    from supervised import demo

    language, vision = folder / "language", folder / "vision"
    tokenizer = AutoTokenizer.from_pretrained(demo.BASE)
    tokenizer.save_pretrained(language)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(language)
    eyes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    CLIPVisionModel(CLIPVisionConfig(**eyes, num_attention_heads=2, image_size=48, patch_size=16)).save_pretrained(
        vision
    )
    CLIPImageProcessorPil(size={"height": 48, "width": 48}, do_center_crop=False).save_pretrained(vision)
    return language, vision


def test_the_command_makes_a_base_from_two_models_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language, vision = _save_models(tmp_path)
    arguments = [
        *("--language_model", str(language), "--vision_model", str(vision), "--run_dir", str(tmp_path / "run")),
        *("--data.adapter", "16", "--bridge.steps", "4", "--bridge.batch_size", "4", "--bridge.checkpoint_every", "2"),
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"Base: {tmp_path / 'run' / 'bridge' / 'base'}" in out
    before, _ = load_base(tmp_path / "run" / "assembled")
    after, processor = load_base(tmp_path / "run" / "bridge" / "base")
    assert type(after).__name__ == "LlavaForConditionalGeneration"
    assert type(after.model.language_model).__name__ == "GPT2Model"
    name = "model.multi_modal_projector.linear_1.weight"
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])
    assert processor.chat_template.endswith(" Answer:{% endif %}")
    assert main(arguments) == 1
    assert "holds an earlier run (checkpoint-00000004); go on with --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0  # finished: written once more
    assert main([*arguments, "--language_model", str(vision), "--resume"]) == 2
    assert f"was joined with language_model {language}, not with language_model {vision}; " in capsys.readouterr().err
    assert main([*arguments, "--vision_revision", "abc", "--bridge.seed", "1", "--resume"]) == 2
    told = capsys.readouterr().err
    assert "was joined with vision_revision None, seed 0, not with vision_revision abc, seed 1; give another" in told
    assert main([*arguments, "--language_revision", "abc", "--resume"]) == 2
    assert "not with language_revision abc; give another --run_dir, or delete it." in capsys.readouterr().err
    assert torch.equal(load_base(tmp_path / "run" / "bridge" / "base")[0].state_dict()[name], after.state_dict()[name])


def test_a_device_that_is_not_there_is_one_line_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere")  # would be told if it were looked for
    assert main(["--device", "cuda:99", "--language_model", missing, "--run_dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: device is 'cuda:99', which this machine does not have; use e.g. cpu.\n"
    assert not (tmp_path / "run").exists()


def test_a_missing_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--language_model", "", "--run_dir", str(tmp_path / "run")]) == 2
    assert "language_model is empty; give a folder or a Hugging Face id, or leave it out." in capsys.readouterr().err
    missing = str(tmp_path / "nowhere")
    assert main(["--language_model", missing, "--run_dir", str(tmp_path / "run")]) == 1
    assert f"language model '{missing}' cannot be loaded" in capsys.readouterr().err
