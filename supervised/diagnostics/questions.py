"""The questions that diagnostics are measured on, with their media in memory and everything frozen computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from supervised.data.media import read_image, read_waveform
from supervised.data.sample import Sample, Waveform
from supervised.diagnostics.cka import LEAST
from supervised.encoders.features import AudioFeatures
from supervised.errors import DataError
from supervised.safe_model import SafeModel
from supervised.stage_a.schedule import order


@dataclass(frozen=True)
class Questions:
    """B questions, ready for `SafeModel.generate`."""

    samples: list[Sample]
    """With picture and clip in memory, the clip at the encoder's rate."""
    inputs: Any
    audio: AudioFeatures
    images: Any

    @property
    def retention(self) -> Tensor:
        """Return bool (B,): the question needs no audio."""
        return torch.tensor([sample.retention_set is not None for sample in self.samples])


def ask(model: SafeModel, samples: Sequence[Sample]) -> Questions:
    """Return the samples as one batch.

    Raises:
        DataError: a picture or a clip cannot be used; the message names the sample.
    """
    loaded = [_loaded(sample, model.encoder.rate) for sample in samples]
    inputs = model.inputs(loaded)
    audio = model.encode_audio([sample.audio for sample in loaded]).to(model.device)
    return Questions(loaded, inputs, audio, model.encode_images(inputs))


def draw(model: SafeModel, samples: Sequence[Sample], count: int, batch_size: int, seed: int) -> list[Questions]:
    """Return `count` of the samples that have a clip, drawn at random, in batches.

    Raises:
        DataError: a medium cannot be used, or fewer than 4 of the drawn questions need audio, or need none.
    """
    found: dict[int, Sample] = {}
    for i in order(len(samples), seed, "diagnostics").tolist():
        if len(found) < count and (sample := samples[i]).audio is not None:
            found[i] = sample
    chosen = [found[i] for i in sorted(found)]
    for kind, words in ((False, "need it"), (True, "need none (retention_set)")):
        number = sum((sample.retention_set is not None) == kind for sample in chosen)
        if number < LEAST:
            raise DataError(
                f"diagnostics need at least {LEAST} questions that have a clip and {words}, got {number} among "
                f"{len(chosen)}; add some, or raise evaluate.questions."
            )
    return [ask(model, chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size)]


def answer_length(model: SafeModel, batches: Sequence[Questions]) -> int:
    """Return one token more than the longest accepted answer has: whatever is longer is wrong anyway."""
    accepted = sorted({answer for batch in batches for sample in batch.samples for answer in sample.answers})
    ids = model.processor.tokenizer(accepted, add_special_tokens=False)["input_ids"]
    return 1 + max(len(each) for each in ids)


def _loaded(sample: Sample, rate: int) -> Sample:
    try:
        image = None if sample.image is None else read_image(sample.image)
        audio: Waveform | None = None if sample.audio is None else read_waveform(sample.audio, rate)
    except DataError as error:
        raise DataError(f"sample {sample.id!r}: {error}") from error
    return replace(sample, image=image, audio=audio)
