"""The questions of one split, from wherever the configuration says: SoundScenes or a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from supervised.config import DataConfig
from supervised.data.manifest import Manifest, read_manifest
from supervised.data.preprocess import preprocessed
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError


def open_split(config: DataConfig, split: str) -> Sequence[Sample]:
    """Return the split's samples; each is rendered, or read from the manifest, when it is asked for.

    A manifest is checked as a whole when its first split is opened, and again when it was changed.

    Raises:
        DataError: the split is unknown or has no question, or the source cannot be read.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; allowed: {', '.join(SPLITS)}.")
    if config.manifest is None:
        from supervised.demo.scenes import SoundScenes

        return preprocessed(SoundScenes(config, split), config.preprocess, augment=split == "adapter")
    samples = _open(config.manifest)
    chosen = samples.split(split)
    if not chosen:
        available = ", ".join(SPLITS[place] for place in np.unique(samples.facts.splits))
        raise DataError(
            f"manifest {config.manifest} has no question in split {split!r}; available: {available}; "
            f'give some of its groups "split": "{split}".'
        )
    return preprocessed(chosen, config.preprocess, augment=split == "adapter")


def _open(manifest: str) -> Manifest:
    """Return the manifest, opened once as long as the file stays the same."""
    path = Path(manifest)
    state = path.stat() if path.is_file() else None
    return _opened(manifest, state and (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=2)
def _opened(manifest: str, state: tuple[int, int, int] | None) -> Manifest:
    return read_manifest(manifest)
