from __future__ import annotations

import threading

import pytest
import torch

from supervised.base import freeze, resolve_stack
from supervised.data.sample import Sample
from supervised.errors import ModelError
from supervised.injection import hearing, probe
from supervised.safe_model import SafeModel

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
    with pytest.raises(ModelError, match="does not pass inputs_embeds to its text stack MllamaTextModel, so audio"):
        probe(model, resolve_stack(model))


def test_a_base_that_needs_a_picture_for_every_call_is_refused_with_the_reason() -> None:
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
    config = Blip2Config(vision_config=VISION, qformer_config=qformer, text_config=text.to_dict(), num_query_tokens=2)
    model = freeze(Blip2ForConditionalGeneration(config))
    with pytest.raises(ModelError, match=r"cannot answer a text-only probe \(.*pixel_values"):
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


def test_chunked_prefill_gives_the_logits_of_one_pass(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    from transformers import DynamicCache

    ids = torch.randint(5, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    audio = tiny_model.encode_audio([sample.audio for sample in tiny_samples[:2]])
    hears = torch.ones(2, 10, dtype=torch.bool)  # the last two positions are the answer

    def logits(chunks: tuple[int, ...]) -> torch.Tensor:
        cache, parts = DynamicCache(), []
        with torch.no_grad(), hearing(tiny_model.stack, tiny_model.adapter, audio, 1.0, hears):
            for part in ids.split(chunks, 1):
                parts.append(tiny_model.base(input_ids=part, past_key_values=cache).logits)
        return torch.cat(parts, 1)

    whole = logits((12,))
    assert torch.allclose(logits((5, 4, 2, 1)), whole, atol=1e-5)
    assert not torch.allclose(tiny_model.base(input_ids=ids).logits, whole, atol=1e-3)


def test_a_call_within_a_call_is_refused(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    audio = tiny_model.encode_audio([tiny_samples[0].audio])
    hears = torch.ones(1, 3, dtype=torch.bool)
    arguments = (tiny_model.stack, tiny_model.adapter, audio, 1.0, hears)
    with hearing(*arguments), pytest.raises(ModelError, match="within another call with audio"), hearing(*arguments):
        pass
    with hearing(*arguments):  # and the first one has ended properly
        assert len(tiny_model.stack._forward_pre_hooks) == 1
    assert len(tiny_model.stack._forward_pre_hooks) == 0


def test_another_thread_does_not_hear(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    ids = torch.tensor([[7, 8, 9]])
    audio = tiny_model.encode_audio([tiny_samples[0].audio])
    seen: list[torch.Tensor] = []

    def plain() -> None:
        with torch.no_grad():
            seen.append(tiny_model.base(input_ids=ids).logits)

    plain()
    with hearing(tiny_model.stack, tiny_model.adapter, audio, 1.0, torch.ones(1, 3, dtype=torch.bool)):
        other = threading.Thread(target=plain)
        other.start()
        other.join()
        plain()
    assert torch.equal(seen[1], seen[0])
    assert not torch.equal(seen[2], seen[0])
