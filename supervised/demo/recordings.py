"""Real recordings as SoundScenes' sound bank: a folder in the ESC-10 or ESC-50 layout, split by its five folds.

ESC-10: `001 - Dog bark/FOLD-CLIPID-TAKE.ogg`. ESC-50: `audio/FOLD-CLIPID-TAKE-TARGET.wav`. Both by K. J. Piczak,
"ESC: Dataset for Environmental Sound Classification", ACM MM 2015.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from supervised.data.media import read_waveform
from supervised.demo.sounds import RATE
from supervised.demo.world import CLASSES
from supervised.errors import DataError

FOLDS = 5
SPLIT_FOLDS = {"adapter": (1, 2, 3), "train": (1, 2, 3), "validation": (1, 2, 3), "calibration": (4,), "test": (5,)}
"""Of `test_fold` 5. No clip is on two sides: adapter and policy learn from three folds, certificates use the fourth,
final figures the fifth."""
_ESC50_TARGET = {0: "dog", 10: "rain", 11: "waves", 20: "baby", 38: "clock", 21: "sneeze"} | {
    40: "helicopter",
    41: "chainsaw",
    1: "rooster",
    12: "fire",
}
_SUFFIXES = (".ogg", ".wav", ".flac")


class Recordings:
    """Clips of some folds, decoded once and kept at `RATE`.

    Raises:
        DataError: the folder is missing, holds no clip of a class in these folds, or a clip cannot be read.
    """

    def __init__(self, folder: Path | str, folds: Collection[int]) -> None:
        self.clips: dict[str, list[np.ndarray]] = {kind: [] for kind in CLASSES}
        """By class: float32 [n] at `RATE`, silence at both ends cut."""
        for path, kind, fold in list_clips(folder):
            if fold in folds:
                self.clips[kind].append(_trim(read_waveform(path, RATE).samples))
        missing = [kind for kind, clips in self.clips.items() if not clips]
        if missing:
            raise DataError(
                f"{folder} has no clip of {', '.join(missing)} in folds {sorted(folds)}; "
                "give a folder in the ESC-10 or ESC-50 layout with all five folds."
            )

    def draw(self, kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Return a random stretch of a random clip, silence added where the clip is shorter: float32 [n]."""
        clip = self.clips[kind][int(rng.integers(len(self.clips[kind])))]
        length = round(seconds * RATE)
        if len(clip) >= length:
            start = int(rng.integers(len(clip) - length + 1))
            return clip[start : start + length]
        out = np.zeros(length, np.float32)
        start = int(rng.integers(length - len(clip) + 1))
        out[start : start + len(clip)] = clip
        return out


def split_folds(split: str, test_fold: int = FOLDS) -> tuple[int, ...]:
    """Return the folds of a split where `test` has fold `test_fold`: `SPLIT_FOLDS`, turned in a circle.

    >>> [split_folds(split, 1) for split in ("adapter", "calibration", "test")]
    [(2, 3, 4), (5,), (1,)]
    """
    return tuple(sorted((fold + test_fold - 1) % FOLDS + 1 for fold in SPLIT_FOLDS[split]))


def list_clips(folder: Path | str) -> list[tuple[Path, str, int]]:
    """Return (file, class, fold) of every clip of the ten classes, in a fixed order.

    Raises:
        DataError: the folder does not exist or holds no clip in the ESC-10 or ESC-50 layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; data.recordings wants a folder in the ESC-10 or ESC-50 layout.")
    clips = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES):
        kind, fold = _kind_of(path), path.name.split("-")[0]
        if kind is not None and fold.isdigit():
            clips.append((path, kind, int(fold)))
    if not clips:
        raise DataError(
            f"{folder} holds no clip named like '001 - Dog bark/1-100032-A.ogg' (ESC-10) or "
            "'audio/1-100032-A-0.wav' (ESC-50); give a folder in one of these layouts."
        )
    return clips


def _kind_of(path: Path) -> str | None:
    parts = path.stem.split("-")
    if len(parts) == 4 and parts[3].isdigit():
        return _ESC50_TARGET.get(int(parts[3]))
    number = path.parent.name.split(" ")[0]
    if len(parts) == 3 and number.isdigit() and 1 <= int(number) <= len(CLASSES):
        return CLASSES[int(number) - 1]
    return None


def _trim(samples: np.ndarray) -> np.ndarray:
    """Cut silence at both ends: the dataset pads short sounds with zeros to five seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples
