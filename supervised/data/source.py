"""The questions of one split, from wherever the configuration says: SoundScenes or a manifest."""

from __future__ import annotations

from collections.abc import Sequence

from supervised.config import DataConfig
from supervised.data.manifest import read_manifest
from supervised.data.sample import SPLITS, Sample
from supervised.errors import DataError


def open_split(config: DataConfig, split: str) -> Sequence[Sample]:
    """Return the split's samples; SoundScenes renders each one when it is asked for.

    Raises:
        DataError: the split is unknown or has no question, or the source cannot be read.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; allowed: {', '.join(SPLITS)}.")
    if config.manifest is None:
        from supervised.demo.scenes import SoundScenes

        return SoundScenes(config, split)
    samples = read_manifest(config.manifest)
    chosen = [sample for sample in samples if sample.split == split]
    if not chosen:
        found = {sample.split for sample in samples}
        available = ", ".join(name for name in SPLITS if name in found)
        raise DataError(
            f"manifest {config.manifest} has no question in split {split!r}; available: {available}; "
            f'give some of its groups "split": "{split}".'
        )
    return chosen
