"""Questions made ready for a base and an encoder: token ids, what the vision tower saw, what the encoder heard.

In: samples, by their places. Out: `Ready` questions, or why one cannot be used, with the manifest's line. A question
has the bits that it has alone, whichever others it was made ready with, so it may be made ready ahead or on demand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from supervised.answers import target_answer
from supervised.data.preprocess import PreprocessedSamples
from supervised.data.sample import Sample
from supervised.data.source import located, manifest_of
from supervised.encoders.features import AudioFeatures
from supervised.errors import DataError
from supervised.prompts import ENCODING, answer_ids
from supervised.safe_model import SafeModel

CHUNK = 64
"""Questions that are prepared at once."""
PICTURES = 16
"""Pictures that go through the vision tower together, where that does not show."""


@dataclass(frozen=True)
class Ready:
    """One question, to be put into any batch."""

    question: Sample
    """Without its media."""
    prompt: Tensor
    """int64 (P,)."""
    target: Tensor
    """int64 (K,): the answer, the end token last."""
    rest: dict[str, Tensor]
    """The base's other inputs, each (1, ...) or (patches, ...)."""
    images: tuple[Tensor, ...]
    """Features of its picture, on the model's device; (): it has none, or its pixels are among the `rest`."""
    audio: AudioFeatures
    """One row, on the CPU."""

    @property
    def bytes(self) -> int:
        """Memory that its tensors take."""
        audio = (self.audio.tokens, self.audio.mask, self.audio.present, self.audio.embedding)
        return sum(value.nbytes for value in (self.prompt, self.target, *self.rest.values(), *self.images, *audio))


class Preparer:
    """Reads samples and makes them ready; two threads may do so at once."""

    def __init__(self, model: SafeModel, samples: Sequence[Sample]) -> None:
        self.model, self.samples, self.manifest = model, samples, manifest_of(samples)
        self.augments = isinstance(samples, PreprocessedSamples) and samples.augment
        """Whether an epoch hears other clips than the one before."""
        self._exact: dict[object, bool] = {}

    def read(self, places: Sequence[int], epoch: int = 0) -> list[Sample | DataError]:
        """Return the samples at `places`, or why they cannot be read, as `epoch` augments them."""
        samples = self.samples
        if self.augments and isinstance(samples, PreprocessedSamples):
            samples = samples.at_epoch(epoch)
        found: list[Sample | DataError] = []
        for place in places:
            try:
                found.append(samples[place])
            except DataError as error:
                found.append(located(self.samples, place, str(error)))
        return found

    def ready(self, places: Sequence[int], read: Sequence[Sample | DataError]) -> list[Ready | DataError]:
        """Return what was read at `places`, made ready, or why it cannot be used.

        Raises:
            ModelError: the base's tokenizer has no end token.
        """
        samples = [sample for sample in read if isinstance(sample, Sample)]
        try:
            found = iter(self._prepared(samples) if samples else [])
        except DataError:  # one by one, to tell which
            return [self._alone(place, sample) for place, sample in zip(places, read, strict=True)]
        return [next(found) if isinstance(sample, Sample) else sample for sample in read]

    def target(self, sample: Sample) -> Tensor:
        """Return the token ids (K,) of the answer that is learned, the end token last.

        Raises:
            DataError: the base has no token for it.
        """
        answer, tokenizer = target_answer(sample.answers), self.model.processor.tokenizer
        with ENCODING:
            known = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not known:
            raise DataError(f"answer {answer!r} has no token in the base's vocabulary; correct it or leave it out.")
        return torch.tensor(answer_ids(self.model.base, tokenizer, answer))

    def _alone(self, place: int, sample: Sample | DataError) -> Ready | DataError:
        if isinstance(sample, DataError):
            return sample
        try:
            return self._prepared([sample])[0]
        except DataError as error:
            text = str(error)
            return located(self.samples, place, text if text.startswith("sample ") else f"sample {sample.id!r}: {text}")

    def _prepared(self, samples: Sequence[Sample]) -> list[Ready]:
        inputs = dict(self.model.inputs(samples))
        if all(len(value) == len(samples) for value in inputs.values()) and all(sample.image for sample in samples):
            parts = _apart_by_row(inputs, len(samples))
        else:  # pictures without a row per question: some have none, or the patches of all stand in one list
            parts = [dict(self.model.inputs([sample])) for sample in samples]
        images = self._images(parts)
        heard = self._heard(samples)
        return [
            self._one(sample, part, pictures, heard.rows([row]))
            for row, (sample, part, pictures) in enumerate(zip(samples, parts, images, strict=True))
        ]

    def _one(
        self, sample: Sample, inputs: Mapping[str, Tensor], images: tuple[Tensor, ...], row: AudioFeatures
    ) -> Ready:
        """Return a question from its own `inputs`, padded like those of its neighbours."""
        attended = inputs["attention_mask"][0].bool()  # (P',)
        rest: dict[str, Tensor] = {}
        for name, value in inputs.items():
            if name in ("input_ids", "attention_mask") or (name == "pixel_values" and images):
                continue
            token_wise = value.shape == (1, len(attended)) and not apart(name)
            rest[name] = (value[:, attended] if token_wise else value).clone()  # a view would keep the whole chunk
        question = replace(sample, image=None, audio=None)
        return Ready(question, inputs["input_ids"][0][attended].cpu(), self.target(sample), rest, images, row)

    def _heard(self, samples: Sequence[Sample]) -> AudioFeatures:
        """Encode the clips, each distinct object once."""
        clips = {id(sample.audio): sample.audio for sample in samples}
        row_of = {key: row for row, key in enumerate(clips)}
        heard = self.model.encode_audio(list(clips.values()), keep=not self.augments).to("cpu")
        return heard.rows([row_of[id(sample.audio)] for sample in samples])

    def _images(self, parts: Sequence[dict[str, Tensor]]) -> list[tuple[Tensor, ...]]:
        """Return the features of each question's picture, () where there are none to keep."""
        found: list[tuple[Tensor, ...]] = []
        for start in range(0, len(parts), PICTURES):
            batch = parts[start : start + PICTURES]
            if len(batch) == PICTURES and self._together_is_exact(batch):
                together = self._features({name: torch.cat([part[name] for part in batch]) for name in batch[0]})
                found += [(row.clone(),) for row in together]
            else:
                found += [tuple(self._features(part)) for part in batch]
        return found

    def _together_is_exact(self, batch: Sequence[dict[str, Tensor]]) -> bool:
        """Return whether a full batch gives each picture the bits it has alone, which shapes decide alone."""
        shapes = [{name: (value.shape, value.dtype) for name, value in part.items()} for part in batch]
        if "pixel_values" not in batch[0] or len(batch[0]["pixel_values"]) != 1 or any(s != shapes[0] for s in shapes):
            return False
        pixels = batch[0]["pixel_values"]
        key = (tuple(pixels.shape), pixels.device.type, torch.get_num_threads())
        if key not in self._exact:
            together = self._features({name: torch.cat([part[name] for part in batch]) for name in batch[0]})
            alone = [row for part in batch for row in self._features(part)]
            self._exact[key] = len(together) == len(alone) == PICTURES and all(map(torch.equal, together, alone))
        return self._exact[key]

    def _features(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return one feature tensor per picture, [] where the output cannot be taken apart and put together again."""
        output: Any = self.model.encode_images(inputs) if "pixel_values" in inputs else None
        known = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}  # more: e.g. deepstack features
        if output is None or not set(output) <= known or len(output.pooler_output) != len(inputs["input_ids"]):
            return []
        return list(output.pooler_output)


def read_ahead(preparer: Preparer, places: Sequence[int]) -> Iterator[tuple[Sequence[int], list[Sample | DataError]]]:
    """Yield places and what was read there in chunks; the next chunk is read in a second thread meanwhile."""
    starts = range(0, len(places), CHUNK)
    with ThreadPoolExecutor(max_workers=1) as pool:
        chunks = [places[start : start + CHUNK] for start in starts[:1]]
        ahead = [pool.submit(preparer.read, chunk) for chunk in chunks]
        for start in starts:
            chunk, read = chunks.pop(), ahead.pop().result()
            if following := places[start + CHUNK : start + 2 * CHUNK]:
                chunks.append(following)
                ahead.append(pool.submit(preparer.read, following))
            yield chunk, read


def apart(name: str) -> bool:
    """Return whether an argument is the question as InstructBLIP's Q-former reads it, with tokens of its own."""
    return name.startswith("qformer_")


def _apart_by_row(inputs: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Return the inputs of each of `count` questions, (1, ...) each."""
    return [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(count)]
