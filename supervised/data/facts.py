"""What sampling needs to know about many questions, in arrays: kind, set, cluster, split, type and length of the clip.

In: samples, one after the other. Out: `Facts`, 31 bytes a question. No question, answer or path is kept, and no medium
is opened.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from supervised.data.sample import SPLITS, Sample, Waveform


@dataclass(frozen=True)
class Facts:
    """Arrays over n questions."""

    sets: tuple[str, ...]
    """Names of the sets: retention sets, and the datasets of the questions that need audio."""
    codes: np.ndarray
    """int32 [n]: the question's place in `sets`."""
    retention: np.ndarray
    """bool [n]: the question needs no audio."""
    has_audio: np.ndarray
    """bool [n]: it comes with a clip, which for a retention question is irrelevant."""
    groups: np.ndarray
    """uint64 [n]: the cluster, as the hash of its name."""
    splits: np.ndarray
    """uint8 [n]: place in `SPLITS`."""
    types: tuple[str, ...]
    """Names of the types of questions; "" is that of a question without one."""
    kinds: np.ndarray
    """int32 [n]: the question's place in `types`."""
    seconds: np.ndarray
    """float32 [n]: length of the clip; NaN where there is none, or where it lies in a file."""
    ids: np.ndarray
    """uint64 [n]: hash of the question's id."""

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, places: np.ndarray) -> Facts:
        """Return the facts of some questions."""
        return replace(
            self,
            codes=self.codes[places],
            retention=self.retention[places],
            has_audio=self.has_audio[places],
            groups=self.groups[places],
            splits=self.splits[places],
            kinds=self.kinds[places],
            seconds=self.seconds[places],
            ids=self.ids[places],
        )


class FactsWriter:
    """Collects the facts of samples."""

    def __init__(self) -> None:
        self._sets: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._codes, self._kinds, self._seconds = array("i"), array("i"), array("f")
        self._groups, self._ids = array("Q"), array("Q")
        self._retention, self._has_audio, self._splits = array("B"), array("B"), array("B")

    def add(self, sample: Sample) -> None:
        """Append one question."""
        self._codes.append(self._sets.setdefault(set_of(sample), len(self._sets)))
        self._groups.append(text_hash(sample.group or sample.id))
        self._retention.append(sample.retention_set is not None)
        self._has_audio.append(sample.audio is not None)
        self._splits.append(SPLITS.index(sample.split))
        self._kinds.append(self._types.setdefault(sample.type, len(self._types)))
        self._seconds.append(sample.audio.seconds if isinstance(sample.audio, Waveform) else math.nan)
        self._ids.append(text_hash(sample.id))

    def finish(self) -> Facts:
        """Return the facts of all questions so far."""
        return Facts(
            tuple(self._sets),
            np.array(self._codes, dtype=np.int32),
            np.array(self._retention, dtype=bool),
            np.array(self._has_audio, dtype=bool),
            np.array(self._groups, dtype=np.uint64),
            np.array(self._splits, dtype=np.uint8),
            tuple(self._types),
            np.array(self._kinds, dtype=np.int32),
            np.array(self._seconds, dtype=np.float32),
            np.array(self._ids, dtype=np.uint64),
        )


def facts_of(samples: Iterable[Sample]) -> Facts:
    """Return the facts of samples, each of which is asked for once."""
    writer = FactsWriter()
    for sample in samples:
        writer.add(sample)
    return writer.finish()


def set_of(sample: Sample) -> str:
    """Return the set a question is drawn from: its retention set, else its dataset, which its id begins with.

    >>> set_of(Sample("musicavqa-123", "Which?", ("violin",)))
    'musicavqa'
    """
    return sample.retention_set or sample.id.partition("-")[0]


def text_hash(text: str) -> int:
    """Return 64 bits of a text's hash, the same on every machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
