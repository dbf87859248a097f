"""Answering the questions of a part: samples go in, the rows of the table come out, in the order of the questions.

Questions are taken in windows; within a window they are put into batches of one prompt length, so that nothing is
padded, pictures are encoded once for both passes, and a clip that several questions share is encoded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.part_rows import PartRows
from envs.passes import BasePass, Passes, UsePass
from envs.questions import Questions
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError

WINDOW_BATCHES = 8
"""Batches whose media are in memory at once; the larger, the fewer batches that are not full."""


@dataclass
class _Rows:
    """Rows of a part in the making, by their place in it."""

    tensors: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)


class Answerer:
    """Asks the model the questions of one part after the other.

    Args:
        passes: of the model.
        questions: of the whole table.
    """

    def __init__(self, passes: Passes, questions: Questions) -> None:
        self.passes, self.questions, self.config = passes, questions, passes.config

    @property
    def window(self) -> int:
        """Questions that are put into batches together."""
        return self.config.batch_size * WINDOW_BATCHES

    def rows(self, part: range, tell: Callable[[int], None]) -> PartRows:
        """Return the rows of a part.

        Args:
            part: places of its questions.
            tell: called with the number of its questions that are done.

        Raises:
            DataError: a question cannot be used and `on_error` is stop.
        """
        rows, done = _Rows(), PartRows()
        for first in range(part.start, part.stop, self.window):

            def further(count: int, before: int = first - part.start) -> None:
                tell(before + count)

            self._window(range(first, min(first + self.window, part.stop)), rows, done, further)
        places = sorted(rows.records)
        if places:
            done.tensors = {name: np.stack([rows.tensors[i][name] for i in places]) for name in rows.tensors[places[0]]}
        done.records = [rows.records[place] for place in places]
        return done

    def _window(self, places: range, rows: _Rows, part: PartRows, tell: Callable[[int], None]) -> None:
        loaded: dict[int, tuple[int, Sample]] = {}
        clips: dict[object, tuple[object, Waveform]] = {}
        for place in places:
            sample_id = f"question {place}"
            try:
                code, sample = self.questions[place]
                sample_id = sample.id
                loaded[place] = (code, self.passes.load(sample, clips))
            except DataError as error:
                told = self.questions.located(place, error)
                if self.config.on_error == "stop":
                    raise told from None
                part.left_out.append({"id": sample_id, "reason": str(told)})
        encoded: dict[int, Any] = {}
        done = len(places) - len(loaded)
        for batch in self._batches(loaded):
            samples = [loaded[place][1] for place in batch]
            audio = self.passes.encode(samples, encoded)
            base = self.passes.base(samples, audio)
            uses = self.passes.uses(base, audio)
            for row, place in enumerate(batch):
                rows.tensors[place], rows.records[place] = self._row(base, uses, row, loaded[place][0], part.sets)
            done += len(batch)
            tell(done)

    def _batches(self, loaded: Mapping[int, tuple[int, Sample]]) -> Iterator[list[int]]:
        """Yield places in batches of one prompt length (pictures of one size give prompts of one length)."""
        buckets: dict[tuple[Any, ...], list[int]] = {}
        tokenizer = self.passes.model.processor.tokenizer
        places = list(loaded)
        if not places:
            return
        questions = tokenizer([loaded[place][1].question for place in places], add_special_tokens=False)["input_ids"]
        for place, ids in zip(places, questions, strict=True):
            image = loaded[place][1].image
            size = getattr(image, "size", None)
            buckets.setdefault((len(ids), size), []).append(place)
        for bucket in buckets.values():
            for first in range(0, len(bucket), self.config.batch_size):
                yield bucket[first : first + self.config.batch_size]

    def _row(
        self, base: BasePass, uses: Sequence[UsePass], row: int, code: int, sets: list[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        sample = base.samples[row]
        outcomes: list[BasePass | UsePass] = [base, *uses]
        if sample.retention_set is not None and sample.retention_set not in sets:
            sets.append(sample.retention_set)
        tensors = {name: values[row] for name, values in base.features.items()}
        tensors |= {
            "score": np.array([outcome.score[row] for outcome in outcomes], dtype=np.float32),
            "latency_ms": np.array([outcome.latency_ms[row] for outcome in outcomes], dtype=np.float32),
            "retention_set": np.array(
                -1 if sample.retention_set is None else sets.index(sample.retention_set), dtype=np.int16
            ),
            "group": np.array(group_id(sample), dtype=np.int64),
            "split": np.array(code, dtype=np.uint8),
        }
        record = {
            "id": sample.id,
            "question": sample.question,
            "answers": list(sample.answers),
            "type": sample.type,
            "predictions": [outcome.answers[row] for outcome in outcomes],
        }
        return tensors, record


def group_id(sample: Sample) -> int:
    """Return the cluster of a sample as a number >= 0; a sample without a group is its own."""
    digest = hashlib.blake2b((sample.group or f"id:{sample.id}").encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
