"""One question with its media, as every importer produces it and every room reads it (one line of a manifest)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from supervised.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("adapter", "train", "validation", "calibration", "test")
"""Stage A learns from `adapter`, the policy from `train`: the policy must see what USE does on unseen questions."""


@dataclass(frozen=True)
class Waveform:
    """Mono sound in memory."""

    samples: np.ndarray
    """float32 [n], nominally in [-1, 1]."""
    rate: int
    """Samples per second."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Sample:
    """A question, its picture, its sound and its accepted answers.

    Raises:
        DataError: no question, no answer or an unknown split.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    """One answer, or the ten of VQAv2; any number with the metric `bleu`."""
    image: Path | Image | None = None
    """A picture; a video file stands for its middle frame."""
    audio: Path | Waveform | None = None
    """A clip; a video file stands for its sound."""
    retention_set: str | None = None
    """Name of the retention set when the question needs no audio, else None."""
    type: str = ""
    group: str = ""
    """Cluster (image or video): splits never separate a group, statistics resample groups."""
    difficulty: str | None = None
    split: str = "train"
    metric: str | None = None
    """How answers are scored, one of `supervised.answers.METRICS`; None: as `answers` and `choices` suggest."""
    choices: tuple[str, ...] = ()
    """Options of a multiple-choice question, in the order they are asked in; one of them is the answer."""

    def __post_init__(self) -> None:
        if not self.question.strip() or not self.answers:
            raise DataError(f"sample {self.id!r} needs a question and at least one answer; add them or leave it out.")
        if self.split not in SPLITS:
            raise DataError(f"sample {self.id!r} has split {self.split!r}; allowed: {', '.join(SPLITS)}.")
