"""Small configurations: the defaults of a family's own configuration class go in, the same made small come out.

Everything that has a size is made small by its name; what else has to fit together stands in the list of families.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH, HEADS, VOCABULARY, SIZE = 32, 4, 96, 32
IMAGE, START, END = 90, 88, 89

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        (
            "adapter_hidden_size d_ff d_model decoder_ffn_dim dim embed_dim encoder_ffn_dim encoder_hidden_size "
            "ffn_dim hidden_size intermediate_size mlp_dim n_embd out_hidden_size projection_dim projector_hidden_size "
            "text_hidden_size vision_feature_dim vision_hidden_size word_embed_proj_dim"
        ).split(),
        WIDTH,
    ),
    **dict.fromkeys(
        (
            "attention_heads decoder_attention_heads encoder_attention_heads n_head num_attention_heads num_heads "
            "linear_num_value_heads"
        ).split(),
        HEADS,
    ),
    **dict.fromkeys(
        "decoder_layers depth encoder_layers layers n_layer num_decoder_layers num_hidden_layers num_layers".split(), 2
    ),
    **dict.fromkeys("linear_num_key_heads num_key_value_heads".split(), 2),
    **dict.fromkeys(
        (
            "d_kv head_dim hidden_size_per_layer_input linear_key_head_dim linear_value_head_dim qk_nope_head_dim "
            "qk_rope_head_dim v_head_dim"
        ).split(),
        WIDTH // HEADS,
    ),
    **dict.fromkeys(
        "kv_lora_rank moe_intermediate_size q_lora_rank qk_head_dim shared_expert_intermediate_size".split(), 16
    ),
    **dict.fromkeys("moe_num_experts n_routed_experts num_experts num_local_experts num_query_tokens".split(), 4),
    **dict.fromkeys("moe_topk num_experts_per_tok".split(), 2),
    **dict.fromkeys("n_group n_shared_experts topk_group".split(), 1),
    **dict.fromkeys("vocab_size vocab_size_per_layer_input".split(), VOCABULARY),
    "image_size": SIZE,
    "max_position_embeddings": 256,
    "patch_size": 8,
    "sliding_window": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys("image_token_id image_token_index".split(), IMAGE),
    **dict.fromkeys("video_token_id video_token_index".split(), 91),
    "audio_token_id": 92,
    **dict.fromkeys("boi_token_id boi_token_index image_start_token_id vision_start_token_id".split(), START),
    **dict.fromkeys("eoi_token_id eoi_token_index image_end_token_id vision_end_token_id".split(), END),
}
"""What a number of this name becomes in a tiny configuration."""
LEFT_OUT = {
    "_name_or_path",
    "architectures",
    "attention_chunk_size",
    "dtype",
    "hybrid_override_pattern",
    "id2label",
    "label2id",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "mlp_only_layers",
    "moe_layers",
    "no_rope_layers",
    "per_layer_config",
    "rope_scaling",
    "transformers_version",
}
"""Made anew by the configuration itself: a list per layer of the full size, or what says nothing about the size."""


def shrink(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with everything small that has a size."""
    small: dict[str, Any] = {}
    for name, value in config.items():
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping) and "model_type" in value:
            small[name] = shrink(value)
        elif name in SIZES and isinstance(value, (int, float)) and not isinstance(value, bool):
            small[name] = SIZES[name]
        elif name in SIZES and isinstance(value, list):
            small[name] = [SIZES[name]] * len(value)
        elif name == "rope_parameters" and isinstance(value, Mapping):
            small[name] = _shrink_rope(value)
        elif name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
            small[name] = [0]
        else:
            small[name] = value
    return small


def _shrink_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return rotary parameters whose sections add up to half a head."""
    small = {name: _shrink_rope(value) if isinstance(value, Mapping) else value for name, value in rope.items()}
    if "mrope_section" in small:
        small["mrope_section"] = [1, 1, 2] if len(small["mrope_section"]) == 3 else [1, 1, 1, 1]
    return small


def merge(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with `changes`, nested ones too."""
    merged = dict(config)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping) and "model_type" not in value
        merged[name] = merge(merged[name], value) if both else value
    return merged
