"""The families of AutoModelForImageTextToText: how each is made small, or why it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tiny_configurations import HEADS, IMAGE, SIZE, START, VOCABULARY, WIDTH
from tiny_pictures import (
    Pictures,
    attended,
    gridded,
    listed,
    masked,
    merged,
    named,
    patched,
    placed,
    shaped,
    sized,
    square_patches,
    targeted,
    tiled,
    whole,
    with_frames,
    with_question,
)


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of a family, and questions for it."""

    name: str
    model_type: str = ""
    """As in the auto class; "": the name."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """To the small configuration."""
    pictures: Pictures = whole
    one_each: bool = False
    """Exactly one picture per question."""
    experts: bool = False
    """Tokens of all rows share the experts, so that the base's own rounding of a row depends on its neighbours."""
    refused: str = ""
    """What the error says where audio cannot enter; "": it can."""


T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": WIDTH,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": HEADS,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "word_embed_proj_dim": 16,
    "ffn_dim": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 256,
    "dropout": 0.0,
}
HYBRID = {"text_config": {"layer_types": ["linear_attention", "full_attention"]}}
MINICPM = HYBRID | {"image_token_id": IMAGE}


def mrope(*section: int) -> dict[str, Any]:
    """Return changes for rotary positions in three dimensions: how many frequencies each has."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)}
    return {"text_config": {"rope_parameters": rope}}


PINPOINTS = {"image_grid_pinpoints": [[SIZE, 2 * SIZE], [2 * SIZE, SIZE]]}
FOUR_TOKENS = {"mm_tokens_per_image": 4}

FAMILIES: list[Family] = [
    Family("aria", changes={"projector_patch_to_query_dict": {"16": 4}}, pictures=whole, experts=True),
    Family("aya_vision"),
    Family("blip", one_each=True, refused=r"does not pass inputs_embeds"),
    Family("blip_2_opt", "blip-2", {"text_config": OPT, "image_token_index": IMAGE}, one_each=True),
    Family("blip_2_t5", "blip-2", {"text_config": T5, "image_token_index": IMAGE}, one_each=True),
    Family("cohere2_vision"),
    Family("cosmos3_edge", pictures=patched),
    Family("cosmos3_omni", pictures=patched),
    Family("deepseek_vl"),
    Family(
        "diffusion_gemma",
        changes={"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}},
        refused=r"does not pass inputs_embeds",
    ),
    Family("evolla", refused=r"does not pass inputs_embeds"),
    Family("exaone4_5", pictures=patched),
    Family("florence2", changes={"vision_config": {"patch_size": [7, 3, 3, 3]}}),
    Family("gemma3", changes=FOUR_TOKENS),
    Family("git", refused=r"does not pass inputs_embeds"),
    Family("glm46v", pictures=patched, changes=mrope(1, 1, 2)),
    Family("glm4v", pictures=patched, changes=mrope(1, 1, 2)),
    Family("glm4v_moe", pictures=patched, changes=mrope(0, 1, 1), experts=True),
    Family("glm_ocr", pictures=patched, changes=mrope(1, 1, 2)),
    Family("glmga", pictures=patched, changes=mrope(1, 1, 2)),
    Family("got_ocr2"),
    Family("granite_docling", pictures=masked),
    Family("hyperclovax_vision_v2", pictures=patched),
    Family("idefics", pictures=attended, refused=r"cannot answer about a picture"),
    Family("idefics2", pictures=listed),
    Family("idefics3", pictures=listed),
    Family("instructblip_opt", "instructblip", {"text_config": OPT, "image_token_index": IMAGE}, with_question, True),
    Family("instructblip_t5", "instructblip", {"text_config": T5, "image_token_index": IMAGE}, with_question, True),
    Family(
        "instructblipvideo",
        changes={"text_config": OPT, "video_token_index": IMAGE},
        pictures=with_frames,
        one_each=True,
    ),
    Family("internvl"),
    Family(
        "kosmos-2",
        changes={"latent_query_num": 2},
        pictures=placed,
        one_each=True,
        refused=r"does not pass inputs_embeds",
    ),
    Family("kosmos-2.5", refused=r"does not pass inputs_embeds"),
    Family("lfm2_vl", pictures=shaped),
    Family("lighton_ocr", pictures=sized),
    Family("llava"),
    Family("llava_next", pictures=tiled, changes=PINPOINTS),
    Family("llava_next_video", pictures=tiled, changes=PINPOINTS),
    Family("llava_onevision", pictures=tiled, changes=PINPOINTS),
    Family("minicpm_ocr", changes=MINICPM, pictures=targeted),
    Family("minicpmv4_6", changes=MINICPM, pictures=targeted),
    Family("minicpmv4_7", changes=MINICPM, pictures=targeted),
    Family("minimax_m3_vl", pictures=patched, experts=True),
    Family("mistral3", pictures=sized),
    Family("mllama", refused=r"does not pass inputs_embeds"),
    Family("nemotron_h_omni", changes={"image_token_id": IMAGE}, pictures=gridded, experts=True),
    Family("ovis2"),
    Family("paddleocr_vl", pictures=square_patches, changes=mrope(1, 1, 2)),
    Family("paligemma"),
    Family("pi0", refused=r"forward\(\) missing 1 required"),
    Family("pix2struct", refused=r"cannot answer about a picture"),
    Family("pp_chart2table"),
    Family("pp_formulanet", refused=r"cannot answer about a picture"),
    Family("qianfan_ocr"),
    Family("qwen2_5_omni_thinker", pictures=patched, changes=mrope(1, 1, 2) | {"vision_start_token_id": START}),
    Family("qwen2_5_vl", pictures=patched, changes=mrope(1, 1, 2)),
    Family("qwen2_vl", pictures=patched, changes=mrope(1, 1, 2)),
    Family("qwen3_5", pictures=patched, changes=HYBRID),
    Family("qwen3_5_moe", pictures=patched, changes=HYBRID, experts=True),
    Family("qwen3_omni_moe_thinker", pictures=patched, changes={"vision_start_token_id": START}, experts=True),
    Family("qwen3_vl", pictures=patched),
    Family("qwen3_vl_moe", pictures=patched, experts=True),
    Family("shieldgemma2", changes=FOUR_TOKENS),
    Family("smolvlm", pictures=listed),
    Family("step3p7", changes={"text_config": {"sliding_window": 64}}),
    Family("t5gemma2", changes={"encoder": FOUR_TOKENS}, refused=r"does not pass inputs_embeds"),
    Family("udop", refused=r"cannot answer about a picture"),
    Family("video_llama_3", pictures=merged),
    Family("video_llava", pictures=named),
    Family("vipllava", changes={"vision_feature_layers": [-1, -2]}),
    Family("vision-encoder-decoder", refused=r"cannot answer about a picture"),
]


NOT_SMALL = {
    "chameleon": "its vocabulary maps every picture code to a word, so that the configuration is the full vocabulary",
    "cohere_compass": "rotary parameters per layer type, which the defaults do not hold",
    "deepseek_ocr2": "its vision tower has a fixed size (896 wide, pictures of 1024 pixels)",
    "deepseek_vl_hybrid": "its second vision tower has a fixed size (SAM)",
    "dots3_note": "a table of settings per layer, for all layers of the full size",
    "emu3": "codes of a vector quantiser of the full size instead of features",
    "ernie4_5_vl_moe": "frequencies of its rotary positions are cut for heads of the full size",
    "fast_vlm": "needs the package timm",
    "fuyu": "pictures come as patches of the tokenizer's making; no features to count",
    "gemma3n": "tables per layer, for all layers of the full size; its vision tower needs timm",
    "gemma4": "the default configuration has no vision tower",
    "gemma4_unified": "the default configuration has no vision tower",
    "glm5_next": "its sparse attention is tied to the full size",
    "granite4_vision": "the default configuration does not say which layers get pictures",
    "hunyuan_vl": "the default configuration has no sections for its rotary positions",
    "inkling2": "patches of a fixed size (192 wide)",
    "inkling_mm_model": "2.4 billion parameters whatever the widths",
    "janus": "73 million parameters whatever the widths (a vector quantiser)",
    "kimi_k25": "its projector has a fixed size (1152 wide)",
    "lfm3_vl": "the default configuration of two layers has no attention",
    "llama4": "the default vision tower gives no features that can be counted",
    "mistral4": "a text model: it is in the table, but takes no pictures",
    "mistral_large4": "a table of settings per layer, for all layers of the full size",
    "molmo2": "its adapter names vision layers of the full size",
    "muse_glimmer": "its vision adapter has a fixed size",
    "muse_spark": "a table of settings per layer, for all layers of the full size",
    "perception_lm": "needs the package timm",
    "qwen4_exp": "the default configuration of two layers has no attention",
    "unlimited_ocr": "its vision tower takes pictures of 1024 pixels only",
}
"""Families of the auto class for which no tiny model is made here, and why."""

CORE = (
    "llava llava_next llava_onevision blip_2_opt blip_2_t5 instructblip_opt instructblip_t5 qwen2_vl qwen2_5_vl "
    "qwen3_vl smolvlm idefics3 paligemma gemma3 internvl"
).split()
"""Families for which everything is tested; the others take the whole only with the slow tests."""
ACCEPTED = {family.name: family for family in FAMILIES if not family.refused}
MIXING = {family.name: family for family in FAMILIES if family.experts}
REFUSED = {family.name: family for family in FAMILIES if family.refused}
