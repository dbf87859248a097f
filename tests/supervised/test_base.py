from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from supervised.base import (
    embedding_mean,
    embedding_rms,
    embedding_width,
    load_base,
    locate,
    resolve_stack,
    weights_sha256,
)
from supervised.errors import ModelError


def test_base_is_frozen_and_in_eval_mode_and_pads_on_the_left(tiny_base_dir: Path) -> None:
    model, processor = load_base(tiny_base_dir)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert processor.tokenizer.padding_side == "left"


def test_stack_is_the_language_model_without_its_head(tiny_base_dir: Path) -> None:
    model, _ = load_base(tiny_base_dir)
    assert resolve_stack(model) is model.model.language_model
    assert embedding_width(model) == 32


def test_a_model_without_a_text_stack_below_its_head_is_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    tiny = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16)
    with pytest.raises(ModelError, match="encoder-decoder language model; give one with a decoder only"):
        resolve_stack(T5ForConditionalGeneration(tiny))


def test_hash_of_weights_sees_a_single_bit_and_survives_reloading(tiny_base_dir: Path) -> None:
    model, _ = load_base(tiny_base_dir)
    before = weights_sha256(model)
    assert weights_sha256(load_base(tiny_base_dir)[0]) == before
    weight = model.get_input_embeddings().weight
    weight.data[3, 5] = torch.nextafter(weight.data[3, 5], torch.tensor(9.0))
    assert weights_sha256(model) != before


def test_hash_tells_types_shapes_and_negative_zero_apart() -> None:
    def sha256(tensor: torch.Tensor) -> str:
        module = nn.Module()
        module.register_buffer("x", tensor)
        return weights_sha256(module)

    tensors = [
        torch.zeros(4),
        -torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(8, dtype=torch.bfloat16),
        torch.zeros(()),
    ]
    assert len({sha256(tensor) for tensor in tensors}) == len(tensors)


def test_embedding_statistics_by_hand() -> None:
    class Tiny:
        def get_input_embeddings(self) -> nn.Embedding:
            return nn.Embedding.from_pretrained(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]))

    # The zero row (padding) does not count: (9 + 16 + 1 + 0) / 4 = 6.5.
    assert embedding_rms(Tiny()) == pytest.approx(6.5**0.5)
    assert embedding_mean(Tiny()).tolist() == [2.0, 2.0]


def test_float32_is_kept_and_bfloat16_is_loaded_on_demand(tiny_base_dir: Path) -> None:
    assert load_base(tiny_base_dir)[0].dtype == torch.float32
    assert load_base(tiny_base_dir, dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a/b/c", Path("nowhere")])
def test_a_missing_folder_is_refused_without_asking_the_network(source: str | Path) -> None:
    with pytest.raises(ModelError, match=r"base '.*' is not a folder; give a folder, a Hugging Face id, or demo"):
        locate(source, "base")


def test_a_hub_id_passes_through() -> None:
    assert locate("llava-hf/llava-1.5-7b-hf", "base") == "llava-hf/llava-1.5-7b-hf"


def test_a_truncated_weights_file_is_one_line(tiny_base_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base_dir, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"^base .* cannot be loaded \([^\n]*\); give a folder[^\n]*$"):
        load_base(tmp_path / "base")


def test_a_checkpoint_with_missing_weights_is_refused(tiny_base_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_base_dir, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop(next(name for name in tensors if "layers.1.mlp.up_proj" in name))
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, e\.g\. .*up_proj"):
        load_base(tmp_path / "base")


def test_a_folder_that_holds_no_vision_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="give a folder or a Hugging Face id of a vision-language model"):
        load_base(tmp_path)


def test_a_base_without_chat_template_is_refused(tiny_base_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base_dir, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no tokenizer with a chat template"):
        load_base(tmp_path / "base")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_pickled_weights_are_refused_and_never_run(tiny_base_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base_dir, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    with pytest.raises(ModelError, match="safetensors"):
        load_base(tmp_path / "base")
    assert not (tmp_path / "exploded").exists()
