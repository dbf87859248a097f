"""The questions of Stage A, by row: kept ready in memory where they fit, else made ready when they are asked for.

In: samples and a `SafeModel`. Out: batches and prompts. Everything frozen (token ids, what the encoder hears, what the
vision tower sees) is computed once and kept, as long as what is prepared so far lets all of it take no more than
`CACHE_BYTES`: that is told by the first chunk, and watched with every further one. A larger set is streamed, and so is
one whose clips are augmented, as each epoch hears others. Both give the same bits. A streamed set costs memory for the
facts of its questions only; encoder outputs are taken from `model.feature_cache`, where it is set and nothing is
augmented.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from supervised.base import has_encoder
from supervised.data.facts import Facts, FactsWriter
from supervised.data.preprocess import PreprocessedSamples
from supervised.data.sample import Sample, Waveform
from supervised.encoders.features import AudioFeatures
from supervised.errors import DataError
from supervised.prompts import answer_ids
from supervised.safe_model import SafeModel
from supervised.stage_a.batches import Batch, make_batch, make_prompts
from supervised.stage_a.preparing import CHUNK, Preparer, Ready, read_ahead

__all__ = ["CACHE_BYTES", "CHUNK", "Batch", "Examples"]

CACHE_BYTES = 1 << 30
"""Memory that the prepared questions of one set may take; a larger set is streamed."""
IN_A_ROW = 100
"""Broken questions after which no further one is tried in the place of the first."""
T = TypeVar("T")


class Examples:
    """Questions, addressed by row.

    Args:
        model: whose base answers them.
        samples: where they come from.
        chosen: which of the samples, in which order.
        tick: hears that n more questions are read, or need not be.
        on_error: a question that cannot be used, because a picture, a clip or the answer cannot be. stop: an error with
            its file and line. leave_out: all are tried beforehand, and those are not among the examples (for questions
            that are evaluated). replace: it is left out of a set that is kept; of one that is streamed, the next one
            of its kind (as to needing and having audio) takes its place whenever it is drawn.

    Raises:
        DataError: a question cannot be used and `on_error` is stop.
        ModelError: the base's tokenizer has no end token.
    """

    def __init__(
        self,
        model: SafeModel,
        samples: Sequence[Sample],
        chosen: Sequence[int],
        tick: Callable[[int], object],
        on_error: Literal["stop", "leave_out", "replace"] = "stop",
    ) -> None:
        self.model, self.on_error = model, on_error
        self.ready: list[Ready] | None = []
        """The prepared questions; None: they are streamed."""
        self._broken: dict[int, dict[str, str]] = {}  # by the place among the samples
        self._preparer = Preparer(model, samples)
        survey = self._prepare(list(chosen), tick)
        manifest = self._preparer.manifest
        if manifest is not None:
            chosen_lines = manifest.rows(self._places)
            self.facts: Facts = chosen_lines.facts
            """What sampling needs to know."""
        else:
            self.facts = survey.facts.finish()
        self.sha256 = survey.digest.hexdigest()
        """Identity of the questions, their order and their media; of a manifest that is streamed, of its lines."""
        if not self.kept and manifest is not None:
            self.sha256 = _streamed_identity(chosen_lines.sha256, samples)
        self.retention = torch.from_numpy(self.facts.retention)  # bool (N,)
        self.present = torch.from_numpy(self.facts.has_audio)  # bool (N,): it comes with a clip

    def __len__(self) -> int:
        return len(self._places)

    @property
    def kept(self) -> bool:
        """Whether all questions are ready in memory, so that reading ahead has nothing to do."""
        return self.ready is not None

    @property
    def left_out(self) -> list[dict[str, str]]:
        """Id and reason of each question that could not be used since the examples were made."""
        return list(self._broken.values())

    @property
    def questions(self) -> Sequence[Sample]:
        """The questions without their media, read when they are asked for if they are streamed."""
        ready = self.ready
        return _Lazy(len(self), self._question if ready is None else lambda row: ready[row].question)

    @property
    def targets(self) -> Sequence[Tensor]:
        """Token ids (K,) of the answers, the end token last; tokenised when they are asked for if they are streamed."""
        ready = self.ready
        if ready is not None:
            return _Lazy(len(self), lambda row: ready[row].target)
        return _Lazy(len(self), lambda row: self._preparer.target(self._question(row)))

    def batch(self, rows: Sequence[int], epoch: int = 0) -> Batch:
        """Return the questions at `rows` with their answers, for a forward pass.

        Args:
            rows: at least one; `Batch.rows` tells those that took the place of broken ones.
            epoch: each number augments clips otherwise, e.g. the number of the step; no matter where nothing does.

        Raises:
            DataError: a question cannot be used and `on_error` is stop; or too many in a row cannot.
        """
        return make_batch(self.model, *self._found(rows, epoch))

    def part(self, batch: Batch, places: Sequence[int]) -> Batch:
        """Return some questions of a batch, as `batch` would, without reading anything again."""
        return make_batch(self.model, [batch.rows[place] for place in places], [batch.ready[place] for place in places])

    def prompt(self, rows: Sequence[int]) -> tuple[dict[str, Any], AudioFeatures, Any]:
        """Return inputs, audio and images of the questions at `rows`, left-padded, for `generate`."""
        return make_prompts(self.model, self._found(rows, 0)[1])

    def logits(self, batch: Batch, audio: AudioFeatures | None, gate: float, budget: int | None = None) -> Tensor:
        """Return the logits (B, K, V) that predict the labels; without `audio` they are the base's."""
        # A decoder-only base: the last prompt token and the answer, whose last position predicts nothing. A decoder
        # of its own reads the answer alone, so all of its positions are wanted; T5 does not take another number.
        apart = has_encoder(self.model.base)
        keep = 0 if apart else batch.labels.shape[1] + 1
        output = self.model.forward(
            batch.inputs, audio, gate, batch.prompt_mask, batch.images, logits_to_keep=keep, budget=budget
        )
        logits: Tensor = output.logits if apart else output.logits[:, :-1]
        return logits

    def answer_ids(self, answer: str) -> list[int]:
        """Return the token ids with which the base says `answer`, the end token last."""
        return answer_ids(self.model.base, self.model.processor.tokenizer, answer)

    def _prepare(self, chosen: Sequence[int], tick: Callable[[int], object]) -> _Survey:
        """Read the `chosen` samples, as far as that is needed, and keep them ready if they fit."""
        preparer, check, survey = self._preparer, self.on_error == "leave_out", _Survey()
        if preparer.augments:
            self.ready = None
        good, done, size = [], 0, 0
        for places, read in read_ahead(preparer, chosen):
            if self.ready is None and not check and preparer.manifest is not None:
                break
            found = preparer.ready(places, read) if self.ready is not None or check else read
            for place, sample, each in zip(places, read, found, strict=True):
                if isinstance(each, DataError) or isinstance(sample, DataError):
                    self._note(place, sample, each)
                    continue
                good.append(place)
                survey.add(sample)
                if self.ready is not None and isinstance(each, Ready):
                    self.ready.append(each)
                    size += each.bytes
            done += len(places)
            tick(len(places))
            if self.ready and size / len(self.ready) * len(chosen) > CACHE_BYTES:
                self.ready = None
        self._places = np.array([*good, *chosen[done:]], dtype=np.int64)  # int64 (N,)
        tick(len(chosen) - done)
        return survey

    def _found(self, rows: Sequence[int], epoch: int) -> tuple[list[int], list[Ready]]:
        """Return the questions at `rows`, ready, and at which rows they stand."""
        if self.ready is not None:
            return list(rows), [self.ready[row] for row in rows]
        places = [int(self._places[row]) for row in rows]
        read = self._preparer.read(places, epoch)
        found = self._preparer.ready(places, read)
        at, ready = list(rows), []
        for i, each in enumerate(found):
            if isinstance(each, DataError):
                at[i], each = self._another(rows[i], read[i], each, epoch)
            ready.append(each)
        return at, ready

    def _another(self, row: int, sample: Sample | DataError, reason: DataError, epoch: int) -> tuple[int, Ready]:
        """Return the next question of the kind of the broken one at `row`, and where it stands."""
        facts, first = self.facts, reason
        self._note(int(self._places[row]), sample, reason)
        alike = (facts.retention == facts.retention[row]) & (facts.has_audio == facts.has_audio[row])
        same = np.flatnonzero(alike)
        begin = int(np.searchsorted(same, row))
        for other in np.roll(same, -begin)[1 : IN_A_ROW + 1].tolist():
            place = int(self._places[other])
            read = self._preparer.read([place], epoch)
            (found,) = self._preparer.ready([place], read)
            if isinstance(found, Ready):
                return other, found
            self._note(place, read[0], found)
        raise DataError(f"{first} None of the questions of its kind that follow can take its place either.")

    def _note(self, place: int, sample: Sample | DataError, reason: object) -> None:
        """Count a question that cannot be used, or stop."""
        if self.on_error == "stop" and isinstance(reason, DataError):
            raise reason
        name = sample.id if isinstance(sample, Sample) else f"question {place}"
        self._broken[place] = {"id": name, "reason": str(reason)}

    def _question(self, row: int) -> Sample:
        """Return a question of a streamed set without its media, which are not read."""
        samples, place = self._preparer.samples, int(self._places[row])
        sample = (samples if self._preparer.manifest is None else self._preparer.manifest)[place]
        return replace(sample, image=None, audio=None)


class _Survey:
    """Facts and identity of samples that are read one after the other."""

    def __init__(self) -> None:
        self.facts, self.digest = FactsWriter(), hashlib.sha256()

    def add(self, sample: Sample) -> None:
        self.facts.add(sample)
        self.digest.update(_description(sample).encode())


class _Lazy(Sequence[T]):
    """What `get` returns for 0 to `count` - 1, in turn."""

    def __init__(self, count: int, get: Callable[[int], T]) -> None:
        self._count, self._get = count, get

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._get(row) for row in range(*index.indices(self._count))]
        return self._get(range(self._count)[index])


def _description(sample: Sample) -> str:
    """Return one line that changes when the sample does; media count by size and by a part of their contents."""
    media = []
    for item in (sample.image, sample.audio):
        if item is None:
            media.append("")
        elif isinstance(item, Path):
            media.append(f"{item.name} {item.stat().st_size}")
        else:
            values = np.asarray(item.samples[::16] if isinstance(item, Waveform) else item)
            media.append(f"{values.shape} {zlib.crc32(np.ascontiguousarray(values).tobytes())}")
    return json.dumps([sample.id, sample.question, sample.answers, sample.retention_set, *media]) + "\n"


def _streamed_identity(lines: str, samples: Sequence[Sample]) -> str:
    """Return the identity of a manifest's lines and of what is done to their media."""
    done = asdict(samples.config) | {"augment": samples.augment} if isinstance(samples, PreprocessedSamples) else None
    return hashlib.sha256(json.dumps([lines, done], sort_keys=True).encode()).hexdigest()
