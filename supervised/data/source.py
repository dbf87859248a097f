"""The questions of one split, from wherever the configuration says: SoundScenes or a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from supervised.config import DataConfig
from supervised.data.manifest import Manifest, read_manifest
from supervised.data.mixture import hold_out
from supervised.data.preprocess import PreprocessedSamples, preprocessed
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError

TRAINED = ("adapter", "train")
"""Splits that something is trained on; what is held out leaves them for `validation`."""


def open_split(config: DataConfig, split: str) -> Sequence[Sample]:
    """Return the split's samples; each is rendered, or read from the manifest, when it is asked for.

    A manifest is checked as a whole when its first split is opened, and again when it was changed. With
    `config.hold_out`, that many retention questions of the splits that are trained on are found in `validation`
    instead, and the other questions of their groups nowhere: which ones depends on the groups' names and `config.seed`.

    Raises:
        DataError: the split is unknown or has no question, the source cannot be read, or more is to be held out than
            there is.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; allowed: {', '.join(SPLITS)}.")
    if config.manifest is None:
        from supervised.demo.scenes import SoundScenes

        return preprocessed(SoundScenes(config, split), config.preprocess, augment=split == "adapter")
    samples = _open(config.manifest, look=config.on_error == "stop")
    chosen = samples.rows(_places(samples, config, split))
    if not chosen:
        available = ", ".join(SPLITS[place] for place in np.unique(samples.facts.splits))
        held = f" after {config.hold_out} were held out" if config.hold_out and split in TRAINED else ""
        raise DataError(
            f"manifest {config.manifest} has no question in split {split!r}{held}; available: {available}; "
            f'give some of its groups "split": "{split}".'
        )
    return preprocessed(chosen, config.preprocess, augment=split == "adapter")


def manifest_of(samples: Sequence[Sample]) -> Manifest | None:
    """Return the manifest that the samples are read from, row by row, or None: they come from elsewhere."""
    inner = samples.samples if isinstance(samples, PreprocessedSamples) else samples
    return inner if isinstance(inner, Manifest) else None


def located(samples: Sequence[Sample], place: int, reason: str) -> DataError:
    """Return an error about the sample at `place` that begins with file and line, where it has such."""
    manifest = manifest_of(samples)
    where = "" if manifest is None else f"{manifest.where(place)}: "
    return DataError(reason if reason.startswith(where) else where + reason)


def _places(samples: Manifest, config: DataConfig, split: str) -> np.ndarray:
    """Return the rows of a split, int64 [m], in the manifest's order."""
    splits = samples.facts.splits
    places = np.flatnonzero(splits == SPLITS.index(split))
    if config.hold_out == 0 or split not in (*TRAINED, "validation"):
        return places
    trained = np.flatnonzero(np.isin(splits, [SPLITS.index(name) for name in TRAINED]))
    try:
        held, rest = hold_out(samples.facts.rows(trained), config.hold_out, config.seed)
    except DataError as error:
        raise DataError(f"data.hold_out, splits {' and '.join(TRAINED)} of {config.manifest}: {error}") from None
    if split == "validation":
        return np.union1d(places, trained[held])
    return np.intersect1d(places, trained[rest], assume_unique=True)


def _open(manifest: str, look: bool) -> Manifest:
    """Return the manifest, opened once as long as the file stays the same; `look` for its media at once, or later."""
    path = Path(manifest)
    state = path.stat() if path.is_file() else None
    return _opened(manifest, look, state and (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=2)
def _opened(manifest: str, look: bool, state: tuple[int, int, int] | None) -> Manifest:
    return read_manifest(manifest, look)
