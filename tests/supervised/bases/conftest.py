"""Tiny random models of every family of AutoModelForImageTextToText, and a batch of questions with pictures for each.

A family's own configuration class is asked for its defaults, and everything in them that has a size is made small by
its name; `FAMILIES` says what else has to fit together, and what the family's pictures look like as tensors. Nothing
is downloaded; no processor is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from supervised.adapter_files import Fit
from supervised.base import embedding_rms, embedding_width, freeze, generator, resolve_stack
from supervised.config import FusionConfig, ModelConfig
from supervised.encoders.features import AudioFeatures
from supervised.probe import probe

WIDTH, HEADS, VOCABULARY, SIZE = 32, 4, 96, 32
IMAGE, START, END = 90, 88, 89
TOKEN_DIM = 16

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


# What the pictures of a family look like: keyword arguments for n pictures of a batch, from the configuration.

Pictures = Callable[[Any, int], dict[str, Tensor]]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(config: Any, n: int) -> dict[str, Tensor]:
    """Return one square per picture."""
    return {"pixel_values": _noise(n, 3, SIZE, SIZE)}


def sized(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares and their sizes."""
    return whole(config, n) | {"image_sizes": torch.full((n, 2), SIZE)}


def tiled(config: Any, n: int) -> dict[str, Tensor]:
    """Return a picture and its tiles, each a square, and the size before tiling."""
    return {"pixel_values": _noise(n, 3, 3, SIZE, SIZE), "image_sizes": torch.tensor([[SIZE, 2 * SIZE]] * n)}


def listed(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares as a list per question; here each question has the same number."""
    return {"pixel_values": _noise(1, n, 3, SIZE, SIZE)}


def patched(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches of all pictures in one list, each flat, and the pictures' grids."""
    vision = config.vision_config
    channels = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    frames = getattr(vision, "temporal_patch_size", 1) or 1
    length = channels * frames * vision.patch_size**2
    return {"pixel_values": _noise(n * 16, length), "image_grid_thw": torch.tensor([[1, 4, 4]] * n)}


def square_patches(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches as little pictures, and the pictures' grids."""
    flat = patched(config, n)
    size = config.vision_config.patch_size
    return flat | {"pixel_values": flat["pixel_values"].view(n * 16, 3, size, size)}


def masked(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares as a list per question, all of them real."""
    return listed(config, n) | {"pixel_attention_mask": torch.ones(1, n, dtype=torch.bool)}


def attended(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares as a list per question, and which tokens look at which."""
    return listed(config, n) | {"image_attention_mask": torch.ones(1, n, 1, dtype=torch.long)}


def placed(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares, and where their tokens are in the prompt."""
    mask = torch.zeros(n, 9, dtype=torch.long)
    mask[:, -4:-2] = 1
    return whole(config, n) | {"image_embeds_position_mask": mask}


def with_question(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares, and the question for the Q-former, the same for all."""
    ids = torch.tensor([[5, 6, 7]] * n)
    return whole(config, n) | {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def with_frames(config: Any, n: int) -> dict[str, Tensor]:
    """Return films of two squares, and the question for the Q-former of every frame."""
    ids = torch.tensor([[5, 6, 7]] * n)
    return {"pixel_values": _noise(n, 2, 3, SIZE, SIZE), "qformer_input_ids": ids}


def twice(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares in two resolutions."""
    return whole(config, n) | {"high_res_pixel_values": _noise(n, 3, SIZE, SIZE)}


def named(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares under the name that tells them from films."""
    return {"pixel_values_images": _noise(n, 3, SIZE, SIZE)}


def merged(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches, grids, and how many of them make a token along a side."""
    return patched(config, n) | {"image_merge_sizes": torch.tensor([2] * n)}


def gridded(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches and grids without a time."""
    size = config.vision_config.patch_size
    return {"pixel_values": _noise(n * 16, 3 * size**2), "image_grid_hw": torch.tensor([[4, 4]] * n)}


def shaped(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches per picture, with grids and masks."""
    size = config.vision_config.patch_size
    return {
        "pixel_values": _noise(n, 16, 3 * size**2),
        "spatial_shapes": torch.tensor([[4, 4]] * n),
        "pixel_attention_mask": torch.ones(n, 16, dtype=torch.long),
    }


def targeted(config: Any, n: int) -> dict[str, Tensor]:
    """Return all patches side by side in one strip, and the grids."""
    size = config.vision_config.patch_size
    return {"pixel_values": _noise(1, 3, size, n * 16 * size), "target_sizes": torch.tensor([[4, 4]] * n)}


def fuyu_patches(config: Any, n: int) -> dict[str, Tensor]:
    """Return flat patches per picture."""
    return {"pixel_values": _noise(n, 16, 3 * 8**2)}


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


def make_base(family: Family) -> Any:
    """Return a random model of the family, frozen, in float32."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = getattr(transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family.model_type or family.name])
    small = merge(shrink(kind.config_class().to_dict()), family.changes)
    small.pop("model_type")
    torch.manual_seed(1)
    base = kind(kind.config_class(**small))
    for parameter in base.parameters():
        if parameter.dim() > 1:  # as initialised, everything is so small that an answer hardly follows from a prompt
            parameter.data.mul_(4)
    if not base.can_generate():
        return freeze(base)
    generator(base).generation_config.suppress_tokens = list(range(END - 1, VOCABULARY))  # they would stand for media
    return freeze(base)


def image_features(base: Any, pictures: Mapping[str, Tensor]) -> int:
    """Return how many tokens the pictures take."""
    number = getattr(base.config, "num_query_tokens", None)
    if number is not None:
        return int(number) * len(pictures["pixel_values"])
    owner = base if hasattr(base, "get_image_features") else base.base_model
    if not hasattr(owner, "get_image_features"):
        return 0
    with torch.no_grad():
        output = owner.get_image_features(**pictures)
    found = getattr(output, "pooler_output", output)
    parts = found if isinstance(found, (list, tuple)) else [found]
    return sum(part.numel() // part.shape[-1] for part in parts)


def make_inputs(base: Any, family: Family, numbers: tuple[int, ...] = (1, 2, 1)) -> dict[str, Tensor]:
    """Return left-padded questions with so many pictures each."""
    lists = family.pictures in (listed, masked)
    if family.one_each or lists:
        numbers = (2 if lists else 1,) * len(numbers)
    pictures = family.pictures(base.config, sum(numbers))
    if lists:
        pictures = {name: value.unflatten(1, (len(numbers), -1))[0] for name, value in pictures.items()}
    tokens = image_features(base, pictures) // sum(numbers)
    rows = []
    for row, number in enumerate(numbers):
        shown = [START, *[IMAGE] * tokens, END] * number
        rows.append([1, *shown, *range(5 + row, 9 + 2 * row)])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), **pictures}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inspect.signature(base.forward).parameters:
            inputs[name] = (ids == IMAGE).long()
    return inputs


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


@dataclass
class Setting:
    """A tiny model that hears, questions for it, and what was heard of them; the last question has no sound."""

    family: Family
    model: Any
    inputs: dict[str, Tensor]
    audio: AudioFeatures

    @property
    def base(self) -> Any:
        """Return the base."""
        return self.model.base


def make_setting(family: Family, dtype: str = "float32") -> Setting:
    """Return a model of the family whose adapter speaks loudly enough to change answers before any training."""
    from supervised.parts import new_adapter
    from supervised.safe_model import SafeModel

    base = make_base(family)
    inputs = make_inputs(base, family)
    base.to(getattr(torch, dtype))
    inputs = {name: value.to(base.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    probe(base, resolve_stack(base), inputs)
    config = ModelConfig(fusion=FusionConfig(residual_scale=2.0), dtype=dtype)
    fit = Fit("", embedding_width(base), embedding_rms(base), "", TOKEN_DIM)
    torch.manual_seed(5)
    model = SafeModel(base, None, None, new_adapter(config, fit, base), config, fit)
    return Setting(family, model, inputs, make_audio(len(inputs["input_ids"]), seed=0))


def make_audio(rows: int, seed: int) -> AudioFeatures:
    """Return features as an encoder would; the last row has no audio."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.arange(rows) < rows - 1
    tokens = torch.randn(rows, 6, TOKEN_DIM, generator=generator) * present[:, None, None]
    embedding = torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=-1)
    return AudioFeatures(tokens, present[:, None].expand(-1, 6).clone(), present, embedding)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out families by the name of the argument."""
    if "setting" in metafunc.fixturenames:
        rest = [name for name in ACCEPTED if name not in CORE]
        values = [
            pytest.param((name, dtype), id=f"{name}-{dtype}") for name in CORE for dtype in ("float32", "bfloat16")
        ]
        values += [pytest.param((name, "float32"), id=f"{name}-float32", marks=pytest.mark.slow) for name in rest]
        metafunc.parametrize("setting", values, indirect=True, scope="module")
    for argument, names in (("accepted", ACCEPTED), ("refused", REFUSED), ("mixing", MIXING)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names.values(), ids=names)


@pytest.fixture(scope="module")
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """A family in a type of numbers; made once for all tests of it."""
    name, dtype = request.param
    made = make_setting(ACCEPTED[name], dtype)
    yield made
    assert not made.model.stack._forward_pre_hooks


@pytest.fixture
def not_small() -> dict[str, str]:
    """Families without a tiny model, and why."""
    return NOT_SMALL


@pytest.fixture
def families() -> list[Family]:
    """All families with a tiny model."""
    return FAMILIES


@pytest.fixture
def make() -> Callable[..., Setting]:
    """Make a setting of one's own."""
    return make_setting


@pytest.fixture
def base_of() -> Callable[[Family], Any]:
    """Make a base alone."""
    return make_base


@pytest.fixture
def questions() -> Callable[..., dict[str, Tensor]]:
    """Write questions for a base."""
    return make_inputs


@pytest.fixture
def sounds() -> Callable[[int, int], AudioFeatures]:
    """Make other audio."""
    return make_audio
