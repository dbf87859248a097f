"""What an import is told: which dataset, where its files lie, and how they become questions. Torch-free."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from supervised.config import check_choice
from supervised.errors import ConfigError

DATASETS = (
    "music_avqa",
    "music_avqa_v2",
    "avqa",
    "avsd",
    "audiocaps",
    "clotho",
    "vggsound",
    "vqav2",
    "vizwiz",
    "gqa",
    "coco",
    "coco_karpathy",
    "textcaps",
    "lrs3",
)
FORMS = ("both", "open", "yes_no")


@dataclass(frozen=True)
class ImportConfig:
    """The import of one dataset into one manifest."""

    dataset: str = ""
    """Name of the dataset; it may also stand first, without the name of the option: import_data gqa."""
    root: str = ""
    """Folder with the dataset's own annotation files, under their own names."""
    out: str = "manifest.jsonl"
    """Manifest to write; a report and the list of what was left out are written beside it."""
    media: str | None = None
    """Folder with pictures, clips or videos; null: that of the annotations."""
    split: str | None = None
    """Splits of the dataset to read, by its own names and with commas between, such as train,val; null: all there."""
    splits: Literal["own", "group"] = "own"
    """Who divides: the dataset's own splits, or all anew; in both cases by whole groups (videos, pictures)."""
    variant: str | None = None
    """Edition, where a dataset has several: balance or bias, balanced or all; null: the first."""
    questions: Literal["both", "open", "yes_no"] = "both"
    """Captions, sound labels and transcripts: ask what it is (open), whether it is that (yes_no), or both."""
    negatives: int = 1
    """Wrong sounds, captions or transcripts asked about per right one, in yes_no questions."""
    history: int = 3
    """AVSD: earlier turns of the dialogue that stand before a question, at most."""
    sounds: str | None = None
    """Retention sets: manifest whose clips are heard with the pictures, though they have nothing to do with them."""
    seed: int = 0
    """Seed of the negatives, of the clips of `sounds` and of the choice of groups for our splits."""
    on_error: Literal["stop", "skip"] = "stop"
    """A faulty row or missing media: stop, or leave it out and count it."""

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            near = difflib.get_close_matches(self.dataset, DATASETS, 1)
            hint = (
                f"did you mean {near[0]}?" if near else "name one of them, as in `import_data music_avqa --root DIR`."
            )
            told = f"dataset {self.dataset!r} is unknown" if self.dataset else "no dataset is named"
            raise ConfigError(f"{told}; allowed: {', '.join(DATASETS)}; {hint}")
        for name, what in (("root", "the folder with the annotations"), ("out", "the manifest to write")):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give {what} with --{name}.")
        for name in ("media", "split", "variant", "sounds"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty; give a value or leave it out.")
        check_choice("splits", self.splits, ("own", "group"))
        check_choice("questions", self.questions, FORMS)
        check_choice("on_error", self.on_error, ("stop", "skip"))
        for name, least in (("negatives", 1), ("history", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}; use e.g. {least}.")

    @property
    def chosen_splits(self) -> tuple[str, ...]:
        """Own splits to read; none: all that are there."""
        return tuple(name.strip() for name in self.split.split(",")) if self.split is not None else ()
