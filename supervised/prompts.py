"""Questions written as a base wants them, and its answers read back.

In: samples with a question and perhaps a picture. Out: left-padded token ids and pixels, by the base's own processor:
through its chat template where it has one, else through a plain prompt ("Question: {} Answer:", as BLIP-2 was trained
with). What `generate` returns becomes text again, whether it repeats the prompt or, with an encoder-decoder, does not.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from supervised.base import LOAD_ERRORS, first_line, forced_start, has_encoder
from supervised.data.media import read_image
from supervised.data.sample import Sample
from supervised.errors import DataError, ModelError

PLAIN = "Question: {} Answer:"
"""Prompt for bases without a chat template; {} is the question."""
REFUSALS = (*LOAD_ERRORS, LookupError, TemplateError)
"""What processors and chat templates raise on questions that they are not made for."""
ENCODING = threading.Lock()
"""A fast tokenizer is first told how to pad and then encodes: of two threads, one could get the other's padding."""


def write_inputs(processor: Any, samples: Sequence[Sample], template: str | None = None) -> Any:
    """Return left-padded prompts (B, L) and pictures, as the base takes them: one turn of image and question.

    Args:
        processor: of the base, with a tokenizer.
        samples: at least one.
        template: plain prompt with {} for the question, instead of the chat template; None: the chat template, or
            `PLAIN` where the processor has none. It may hold the base's token for a picture; otherwise the picture
            comes first.

    Raises:
        DataError: no sample, an unreadable picture, a question that contains a special token of the base, or samples
            that the processor or its chat template refuses.
    """
    if not samples:
        raise DataError("no sample was given; give at least one.")
    texts = [write_prompt(processor, sample, template) for sample in samples]
    if writes_pictures(processor) and any(sample.image is None for sample in samples):
        sample = next(sample for sample in samples if sample.image is None)
        raise DataError(
            f"sample {sample.id!r} has no picture, and {type(processor).__name__} puts one before every question; "
            "give it one, or leave the sample out."
        )
    # A list per question: several processors would take a flat list for the pictures of one question.
    images = [[] if sample.image is None else [read_image(sample.image)] for sample in samples]
    start = processor.tokenizer.bos_token
    try:
        with ENCODING:
            batch = processor(
                text=texts,
                images=images if any(images) else None,
                padding=True,
                return_tensors="pt",
                add_special_tokens=not (start and texts[0].startswith(start)),  # some templates write it themselves
            )
    except REFUSALS as error:
        raise DataError(
            f"{type(processor).__name__} refuses the questions from {samples[0].id!r} on ({first_line(error)}); "
            "give every question what the base wants, e.g. a picture."
        ) from error
    batch.pop("labels", None)  # PaliGemma's, for training it
    return batch


def write_prompt(processor: Any, sample: Sample, template: str | None = None) -> str:
    """Return the text of a sample's prompt, with the base's placeholder for the picture.

    Raises:
        DataError: the question contains a special token of the base, or the chat template refuses it.
    """
    image_token = picture_token(processor)
    for token in {*processor.tokenizer.all_special_tokens, image_token} - {None}:
        if token in sample.question:
            raise DataError(
                f"sample {sample.id!r}: the question contains {token!r}, a special token of the base; remove it."
            )
    if template is None and getattr(processor, "chat_template", None):
        picture = [{"type": "image"}] if sample.image is not None else []
        turn = {"role": "user", "content": [*picture, {"type": "text", "text": sample.question}]}
        try:
            return str(processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))
        except REFUSALS as error:
            raise DataError(
                f"the chat template of {type(processor).__name__} refuses the question of sample {sample.id!r} "
                f"({first_line(error)}); set model.prompt, which is used instead of it."
            ) from error
    return _plain_prompt(template or PLAIN, sample, image_token, writes_pictures(processor))


def example_inputs(processor: Any, template: str | None = None) -> Any:
    """Return the inputs of one question about a grey picture, to try a base on.

    Raises:
        DataError: the processor makes none of it.
    """
    from PIL import Image

    picture = Image.new("RGB", (64, 64), (128, 128, 128))
    return write_inputs(processor, [Sample("example", "What is this?", ("grey",), picture)], template)


def read_answers(tokenizer: Any, sequences: Any, inputs: Mapping[str, Any], encoder_decoder: bool) -> list[str]:
    """Return the answers in the `sequences` of an output of `generate`, without special tokens and outer blanks.

    Args:
        tokenizer: of the base.
        sequences: int64 (B, L + n), or (B, 1 + n) of an encoder-decoder, which does not repeat the prompt.
        inputs: what `generate` was given.
        encoder_decoder: whether the base's language model has an encoder.
    """
    new = answer_tokens(sequences, inputs, encoder_decoder)
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def answer_tokens(sequences: Any, inputs: Mapping[str, Any], encoder_decoder: bool) -> Any:
    """Return the tokens (B, n) of the n steps of `generate`: without the prompt, or the decoder's start.

    Arguments as of `read_answers`.
    """
    return sequences[:, 1 if encoder_decoder else inputs["input_ids"].shape[1] :]


def answer_ids(base: Any, tokenizer: Any, answer: str) -> list[int]:
    """Return the token ids with which the base says `answer`, the end token last.

    An encoder-decoder's answers stand between the special tokens of its tokenizer: BART's begin with <s>.

    Raises:
        ModelError: the tokenizer has no end token.
    """
    end, apart = tokenizer.eos_token_id, has_encoder(base)
    if end is None:
        raise ModelError("the base's tokenizer has no end token, so no answer could end; give one that has.")
    with ENCODING:
        ids = list(tokenizer(answer, add_special_tokens=apart)["input_ids"])
    if (first := forced_start(base)) is not None and ids[:1] != [first]:
        ids = [first, *ids]
    return ids if apart and ids[-1:] == [end] else [*ids, end]


def picture_token(processor: Any) -> str | None:
    """Return the text that stands for a picture in a prompt of this processor, or None."""
    token = getattr(processor, "image_token", None)
    return None if token is None else str(getattr(token, "content", token))


def writes_pictures(processor: Any) -> bool:
    """Return whether the processor puts the picture's tokens before the prompt itself, as those of BLIP-2 do."""
    return getattr(processor, "num_query_tokens", None) is not None


def _plain_prompt(template: str, sample: Sample, image_token: str | None, by_processor: bool) -> str:
    """Return the question in `template`, with the picture's token where there is a picture and the token is ours."""
    if image_token is not None and image_token not in template and not by_processor:
        template = f"{image_token}\n{template}"
    if image_token is not None and sample.image is None:
        template = template.replace(f"{image_token}\n", "").replace(image_token, "")
    return template.replace("{}", sample.question)
