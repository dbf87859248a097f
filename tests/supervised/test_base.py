from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from supervised.base import (
    embedding_mean,
    embedding_rms,
    embedding_width,
    generator,
    has_encoder,
    keeps_state,
    language_model,
    load_base,
    locate,
    one_at_a_time,
    refuse_compiled,
    resolve_stack,
    weights_sha256,
)
from supervised.config import ModelConfig
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


def test_stack_of_an_encoder_decoder_is_its_encoder() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    tiny = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16)
    model = T5ForConditionalGeneration(tiny)
    assert has_encoder(model)
    assert resolve_stack(model) is model.encoder


def test_stack_is_found_below_a_language_model_with_a_head_and_that_one_generates() -> None:
    model = _blip2()
    assert not has_encoder(model)
    assert resolve_stack(model) is model.language_model.model.decoder
    assert language_model(model) is model.language_model
    assert generator(model) is model.language_model


def test_a_model_without_a_text_stack_is_refused() -> None:
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    with pytest.raises(ModelError, match=r"base ViTModel shows no text stack .*; give e\.g\. a LLaVA"):
        resolve_stack(model)


def _blip2() -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = OPTConfig(vocab_size=40, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    text.word_embed_proj_dim = 32
    config = Blip2Config(
        vision_config={**small, "image_size": 16, "patch_size": 8},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": 40},
        text_config=text.to_dict(),
        num_query_tokens=2,
    )
    return Blip2ForConditionalGeneration(config)


def _compile_whole(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def _compile_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def _compile_the_stack(model: Any) -> Any:
    resolve_stack(model).compile(backend="eager")
    return model


def _compile_the_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def _compile_a_layer(model: Any) -> Any:
    layers = resolve_stack(model).layers
    layers[0] = torch.compile(layers[0], backend="eager")
    return model


@pytest.mark.parametrize(
    "compiled", [_compile_whole, _compile_in_place, _compile_the_stack, _compile_the_forward, _compile_a_layer]
)
def test_a_compiled_base_is_refused(tiny_base_dir: Path, compiled: Callable[[Any], Any]) -> None:
    model, _ = load_base(tiny_base_dir)
    refuse_compiled(model)
    with pytest.raises(ModelError, match=r"was compiled with torch\.compile, .*; give the model as it was loaded"):
        refuse_compiled(compiled(model))


def test_a_base_compiled_after_attaching_is_refused_with_and_without_audio(tiny_config: ModelConfig) -> None:
    from supervised.safe_model import SafeModel

    model = SafeModel.attach(tiny_config)
    inputs = {"input_ids": torch.tensor([[7, 8, 9]])}
    model.forward(inputs)
    model.base.compile(backend="eager")
    for call in (model.forward, model.generate):
        with pytest.raises(ModelError, match="was compiled"):
            call(inputs)


def test_calls_of_a_base_with_state_wait_for_each_other_and_others_do_not() -> None:
    def most_at_once(module: nn.Module) -> int:
        together, most = 0, 0
        counting = threading.Lock()
        start = threading.Barrier(3)

        def call() -> None:
            nonlocal together, most
            start.wait()
            with one_at_a_time(module):
                with counting:
                    together += 1
                    most = max(most, together)
                time.sleep(0.05)
                with counting:
                    together -= 1

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return most

    class Stateful(nn.Linear):
        rope_deltas: torch.Tensor | None = None

    stateful = Stateful(1, 1)
    assert keeps_state(stateful)
    assert most_at_once(stateful) == 1
    assert most_at_once(nn.Linear(1, 1)) == 3
    with one_at_a_time(stateful), one_at_a_time(stateful):  # a thread does not wait for itself
        pass


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


def test_a_base_without_chat_template_is_loaded(tiny_base_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base_dir, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    assert load_base(tmp_path / "base")[1].chat_template is None


def test_a_base_without_a_tokenizer_is_refused(tiny_base_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base_dir, tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).unlink()
    with pytest.raises(ModelError, match=r"^base [^\n]*; give a folder or [^\n]*$"):
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
