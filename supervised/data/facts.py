"""What sampling needs to know about many questions, in arrays: kind, set, cluster and split, 15 bytes a question.

In: samples, one after the other. Out: `Facts`. No question, answer or path is kept.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from supervised.data.sample import SPLITS, Sample


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

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, places: np.ndarray) -> Facts:
        """Return the facts of some questions."""
        parts = (self.codes, self.retention, self.has_audio, self.groups, self.splits)
        return Facts(self.sets, *(part[places] for part in parts))


class FactsWriter:
    """Collects the facts of samples."""

    def __init__(self) -> None:
        self._sets: dict[str, int] = {}
        self._codes, self._groups = array("i"), array("Q")
        self._retention, self._has_audio, self._splits = array("B"), array("B"), array("B")

    def add(self, sample: Sample) -> None:
        """Append one question."""
        self._codes.append(self._sets.setdefault(set_of(sample), len(self._sets)))
        self._groups.append(text_hash(sample.group or sample.id))
        self._retention.append(sample.retention_set is not None)
        self._has_audio.append(sample.audio is not None)
        self._splits.append(SPLITS.index(sample.split))

    def finish(self) -> Facts:
        """Return the facts of all questions so far."""
        return Facts(
            tuple(self._sets),
            np.array(self._codes, dtype=np.int32),
            np.array(self._retention, dtype=bool),
            np.array(self._has_audio, dtype=bool),
            np.array(self._groups, dtype=np.uint64),
            np.array(self._splits, dtype=np.uint8),
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
