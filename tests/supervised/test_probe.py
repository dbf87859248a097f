from __future__ import annotations

from typing import Any

import pytest
import torch

from supervised.base import freeze, resolve_stack
from supervised.errors import ModelError
from supervised.probe import probe

TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 16,
}


def test_a_family_that_hides_its_embeddings_is_refused() -> None:
    from transformers import MllamaConfig, MllamaForConditionalGeneration
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

    vision = MllamaVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_global_layers=1,
        attention_heads=2,
        intermediate_size=16,
        vision_output_dim=32,
        image_size=28,
        patch_size=14,
        max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
        intermediate_layers_indices=[0],
    )
    config = MllamaConfig(vision_config=vision, text_config=MllamaTextConfig(**TEXT, cross_attention_layers=[1]))
    model = freeze(MllamaForConditionalGeneration(config))
    with pytest.raises(
        ModelError,
        match="does not pass inputs_embeds to its text stack MllamaTextModel, so audio",
    ):
        probe(model, resolve_stack(model))


def _blip2() -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

    qformer = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "encoder_hidden_size": 16,
        "vocab_size": 40,
    }
    text = OPTConfig(vocab_size=40, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    text.word_embed_proj_dim = 32
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=qformer,
        text_config=text.to_dict(),
        num_query_tokens=2,
        image_token_index=39,
    )
    return freeze(Blip2ForConditionalGeneration(config))


def test_a_base_that_needs_a_picture_for_every_call_is_tried_with_one() -> None:
    model = _blip2()
    stack = resolve_stack(model)
    with pytest.raises(ModelError, match=r"cannot answer a text-only probe \(.*pixel_values"):
        probe(model, stack)
    ids = torch.tensor([[39, 39, 5, 6]])
    picture = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 48, 48)}
    probe(model, stack, picture)
    with pytest.raises(ModelError, match=r"cannot answer about a picture \("):
        probe(model, stack, picture | {"pixel_values": torch.randn(1, 3, 5, 5)})
    assert not stack._forward_pre_hooks


def _llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT), image_token_index=4)
    return freeze(LlavaForConditionalGeneration(config))


def test_a_base_that_ignores_what_its_stack_is_given_is_refused() -> None:
    model = _llava()
    forward = model.model.language_model.forward

    def deaf(**kwargs: Any) -> Any:
        return forward(**{**kwargs, "inputs_embeds": torch.zeros_like(kwargs["inputs_embeds"])})

    model.model.language_model.forward = deaf
    with pytest.raises(ModelError, match="does not answer from the embeddings its text stack LlamaModel is given"):
        probe(model, resolve_stack(model))


def test_a_base_that_makes_the_sequence_longer_is_refused() -> None:
    model = _llava()
    inner = model.model.forward

    def longer(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return inner(inputs_embeds=model.get_input_embeddings()(input_ids.repeat(1, 2)), use_cache=False)

    model.model.forward = longer
    with pytest.raises(ModelError, match=r"of shape \[1, 6, 32\] for token ids of shape \[1, 3\], so positions"):
        probe(model, resolve_stack(model))


def test_a_base_that_calls_its_stack_twice_is_refused() -> None:
    model = _llava()
    inner = model.model.forward

    def twice(**kwargs: Any) -> Any:
        inner(**kwargs)
        return inner(**kwargs)

    model.model.forward = twice
    with pytest.raises(ModelError, match="calls its text stack LlamaModel 2 times for one answer"):
        probe(model, resolve_stack(model))


def test_a_base_whose_generate_goes_another_way_is_refused() -> None:
    model = _llava()
    real = model.generate

    def around(**kwargs: Any) -> Any:
        hooks = dict(resolve_stack(model)._forward_pre_hooks)
        resolve_stack(model)._forward_pre_hooks.clear()
        try:
            return real(**kwargs)
        finally:
            resolve_stack(model)._forward_pre_hooks.update(hooks)

    model.generate = around
    with pytest.raises(ModelError, match=r"'s generate does not pass inputs_embeds to its text stack"):
        probe(model, resolve_stack(model))


def test_other_families_that_merge_pictures_into_the_embeddings_are_accepted() -> None:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig

    config = Idefics3Config(
        vision_config=VISION, text_config=LlamaConfig(**TEXT), image_token_id=4, scale_factor=1, pad_token_id=0
    )
    model = freeze(Idefics3ForConditionalGeneration(config))
    hooks = len(resolve_stack(model)._forward_pre_hooks)
    probe(model, resolve_stack(model))
    assert len(resolve_stack(model)._forward_pre_hooks) == hooks
