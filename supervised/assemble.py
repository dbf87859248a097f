"""A vision-language model put together from a causal language model and a vision encoder, as a LLaVA.

In: two checkpoints (DialoGPT or Llama, and CLIP). Out: a folder that `load_base` takes: a LLaVA configuration made from
the two, their weights bit for bit (but a vision encoder of another dtype is converted to that of the language model), a
projector between them that knows nothing yet, and a processor. Whoever wants sensible answers about pictures trains the
projector first; see `supervised.bridge`.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervised.base import LOAD_ERRORS, first_line, freeze, resolve_stack
from supervised.errors import ConfigError, ModelError
from supervised.files import write_json
from supervised.probe import probe
from supervised.prompts import example_inputs

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"
ORIGIN = "assembly.json"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}Question: {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} Answer:{% endif %}"
)
"""The language models that this is for were trained on plain text, so the prompt is plain text."""
ROOM = 32
"""Positions that a prompt needs besides its picture, at least."""


def assemble_llava(
    language_model: str | Path,
    vision_model: str | Path,
    out: str | Path,
    seed: int = 0,
    language_revision: str | None = None,
    vision_revision: str | None = None,
) -> Path:
    """Write a LLaVA made of two checkpoints to `out` and return the folder.

    The embedding table is extended by the tokens for pictures and padding, where the tokenizer lacks them; the new rows
    are drawn around the mean of the old ones, as transformers does it. What is drawn depends on `seed` only.

    Args:
        language_model: a causal language model with its tokenizer: a folder, or a Hugging Face id.
        vision_model: a vision transformer, or a CLIP or SigLIP with one, with its image processor.
        out: a folder that does not exist yet.
        seed: of the projector and of the new embeddings.
        language_revision: commit on the Hugging Face hub; None: the newest.
        vision_revision: commit on the Hugging Face hub; None: the newest.

    Raises:
        ConfigError: `out` exists.
        ModelError: one of the two cannot be loaded, or they cannot be joined, and why.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out} exists already; give a folder that does not, or delete it.")
    with _unreported():
        speaker, tokenizer = _load_language_model(language_model, language_revision)
        tower, pictures = _load_vision_model(vision_model, vision_revision)
    patches, extra = _tokens(tower)
    with torch.random.fork_rng(), _unreported():
        torch.manual_seed(seed)
        _add_tokens(speaker, tokenizer)
        model = _join(speaker, tower, tokenizer, patches, extra)
    processor = _processor(tokenizer, pictures, tower, extra)
    example = example_inputs(processor).to(model.device, dtype=model.dtype)
    _check_room(speaker, int(example["input_ids"].shape[1]))
    probe(freeze(model), resolve_stack(model), example)
    temporary = out.with_name(f".{out.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        origin = {
            "language_model": str(language_model),
            "language_revision": language_revision,
            "vision_model": str(vision_model),
            "vision_revision": vision_revision,
            "seed": seed,
            "projector": "untrained",
        }
        write_json(temporary / ORIGIN, origin)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


@contextmanager
def _unreported() -> Iterator[None]:
    """Keep transformers from listing the weights of a CLIP's other half, and from explaining new embeddings."""
    # A subclass that expects the other half would not do: names in old checkpoints are translated for known classes.
    logger = logging.getLogger("transformers.modeling_utils")

    def errors_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(errors_only)  # a higher level makes transformers report something else
    try:
        yield
    finally:
        logger.removeFilter(errors_only)


def _load_language_model(source: str | Path, revision: str | None) -> tuple[Any, Any]:
    """Return a causal language model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except LOAD_ERRORS as error:
        raise ModelError(
            f"language model {str(source)!r} cannot be loaded ({first_line(error)}); give a folder or a Hugging Face "
            "id of a causal language model with safetensors weights and a tokenizer."
        ) from error
    _require_whole(report, f"language model {str(source)!r}")
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(
            f"language model {str(source)!r} has a head with a bias, or none, which a LLaVA cannot hold; "
            "give e.g. a GPT-2 or a Llama."
        )
    width, table = model.config.hidden_size, model.get_input_embeddings().weight.shape[1]
    if width != table:
        raise ModelError(
            f"language model {str(source)!r} has embeddings of width {table} and layers of width {width}, which a "
            "LLaVA cannot join; give e.g. a GPT-2 or a Llama."
        )
    return model, tokenizer


def _load_vision_model(source: str | Path, revision: str | None) -> tuple[Any, Any]:
    """Return a vision transformer and its image processor."""
    from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor

    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        config = getattr(config, "vision_config", config)
        tower, report = MODEL_MAPPING[type(config)].from_pretrained(
            source, config=config, dtype="auto", use_safetensors=True, output_loading_info=True, **options
        )
        pictures = AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except LOAD_ERRORS as error:
        raise ModelError(
            f"vision model {str(source)!r} cannot be loaded ({first_line(error)}); give a folder or a Hugging Face id "
            "of a CLIP or of a vision transformer with safetensors weights and an image processor."
        ) from error
    _require_whole(report, f"vision model {str(source)!r}")
    return tower, pictures


def _require_whole(report: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint that lacks weights."""
    if missing := report["missing_keys"]:
        raise ModelError(f"{name} lacks {len(missing)} weights, e.g. {min(missing)}; give a complete checkpoint.")


@torch.no_grad()
def _tokens(tower: Any) -> tuple[int, int]:
    """Return how many patches a picture has, and how many other tokens come before them: 1 for CLIP, 0 for SigLIP."""
    size, patch = tower.config.image_size, tower.config.patch_size
    channels = getattr(tower.config, "num_channels", 3)
    pixels = torch.zeros(1, channels, size, size, dtype=tower.dtype, device=tower.device)
    length = freeze(tower)(pixels).last_hidden_state.shape[1]
    patches = (size // patch) ** 2
    if length - patches not in (0, 1):
        raise ModelError(
            f"vision model {type(tower).__name__} makes {length} tokens of {patches} patches, which a LLaVA cannot "
            "select; give a CLIP or a SigLIP."
        )
    return patches, length - patches


def _add_tokens(speaker: Any, tokenizer: Any) -> None:
    """Give tokenizer and embeddings a token for pictures and, where there is none, one for padding."""
    from transformers import AddedToken

    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)], special_tokens=True)
    if len(tokenizer) > speaker.get_input_embeddings().weight.shape[0]:
        speaker.resize_token_embeddings(len(tokenizer))


def _join(speaker: Any, tower: Any, tokenizer: Any, patches: int, extra: int) -> Any:
    """Return the LLaVA: both models' weights, and a new projector."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = speaker.config
    table: Tensor = speaker.get_input_embeddings().weight
    head: Tensor = speaker.get_output_embeddings().weight
    # LLaVA ties the head to a table called embed_tokens; a GPT-2 calls it otherwise, so the head becomes its own.
    tied = head is table and hasattr(speaker.base_model, "embed_tokens")
    text.tie_word_embeddings = tied
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=patches,
        vision_feature_select_strategy="default" if extra else "full",
        vision_feature_layer=-2,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlavaForConditionalGeneration(config).to(speaker.dtype)
    with torch.no_grad():
        model.model.language_model.load_state_dict(speaker.base_model.state_dict())
        model.model.vision_tower.load_state_dict(tower.state_dict())
        model.lm_head.weight.copy_(head)
    model.generation_config = speaker.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def _processor(tokenizer: Any, pictures: Any, tower: Any, extra: int) -> Any:
    """Return the LLaVA's processor."""
    from transformers import LlavaProcessor

    tokenizer.padding_side = "left"
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="default" if extra else "full",
        num_additional_image_tokens=extra,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def _check_room(speaker: Any, length: int) -> None:
    """Refuse a language model that is too short for a picture and a question."""
    room = getattr(speaker.config, "max_position_embeddings", math.inf)
    if length + ROOM > room:
        raise ModelError(
            f"a question with a picture takes {length} tokens, and the language model has {room} positions; "
            "give a vision model with larger patches, or a longer language model."
        )
