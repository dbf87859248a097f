"""Clips for questions that need none: a picture and a sound that have nothing to do with each other.

A model that hears must answer such questions as if it did not; without a clip there would be nothing to learn or to
measure. Clips come from a manifest that was imported before, each from the split that the question is in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from supervised.data.importers.shares import draw
from supervised.data.manifest import read_manifest
from supervised.data.sample import Sample
from supervised.errors import DataError


class IrrelevantSounds:
    """The clips of a manifest, by split.

    Raises:
        DataError: the manifest cannot be read.
    """

    def __init__(self, manifest: Path | str, seed: int) -> None:
        self._manifest, self._seed = manifest, seed
        clips: dict[str, dict[Path, None]] = {}
        for sample in read_manifest(manifest):
            if isinstance(sample.audio, Path):
                clips.setdefault(sample.split, {})[sample.audio.resolve()] = None
        self._clips = {split: tuple(found) for split, found in clips.items()}

    def add(self, sample: Sample) -> Sample:
        """Return the question with a clip, drawn by its picture: all questions about one picture hear the same.

        Raises:
            DataError: the manifest has no clip in the question's split.
        """
        clips = self._clips.get(sample.split)
        if not clips:
            raise DataError(
                f"{self._manifest} has no clip in split {sample.split!r}, for questions such as {sample.id!r}; import "
                "it with that split, or divide both datasets with --splits group."
            )
        return replace(sample, audio=clips[int(draw(f"{sample.group}:sound", self._seed) * len(clips))])
