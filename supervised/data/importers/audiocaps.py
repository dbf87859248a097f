"""AudioCaps (cdjkim/audiocaps): captions of ten-second clips of YouTube videos.

In: `{train,val,test}.csv` with the columns `audiocap_id,youtube_id,start_time,caption`, one caption a row; a clip of
val and test has five. `audiocap_id` is the caption's. The editions v1 and v2.0 are not to be mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from supervised.data.importers.captions import Described, Gathered, check, questions, youtube_group
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_table
from supervised.data.importers.rows import BadRow, Row, text
from supervised.data.importers.shares import THREE
from supervised.data.importers.templates import HEARD_OPEN, HEARD_YES_NO
from supervised.data.sample import Sample

FILES = {
    split: (f"{split}.csv", f"dataset/{split}.csv", f"dataset2.0/{split}.csv") for split in ("train", "val", "test")
}
COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


class AudioCaps:
    """Questions about the clips of AudioCaps."""

    shares = THREE

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._config, self._media = config, media
        self._files = find_files(root, FILES, config.chosen_splits)

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per clip."""
        for split, path in self._files.items():
            gathered, ids = Gathered(split, self._config), set()
            for line, raw in read_table(path, COLUMNS):
                where = f"{path}, line {line}"
                try:
                    start, caption_id = text(raw, "start_time"), text(raw, "audiocap_id")
                    if not start.isdecimal():
                        raise BadRow("wrong type", f"start_time must be whole seconds, got {start!r}; correct it.")
                    if caption_id in ids:
                        raise BadRow("doubled id", f"audiocap_id {caption_id} stands twice in this file; remove one.")
                    ids.add(caption_id)
                    gathered.add(f"{text(raw, 'youtube_id')}_{int(start)}", text(raw, "caption"), where)
                except BadRow as problem:
                    gathered.refuse(where, problem)
            yield from gathered.rows()

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a clip.

        Raises:
            BadRow: the row cannot be used, or the clip is missing.
        """
        clip: Described = check(row.raw)
        video, _, start = clip.name.rpartition("_")
        names = (
            clip.name,
            f"{video}_{int(start):06d}",
            f"{video}_{int(start) * 1000}",
        )  # unpadded, as published, first
        return questions(
            clip,
            self._config,
            (HEARD_OPEN, HEARD_YES_NO),
            "Caption",
            youtube_group(video),
            image=self._media.picture_if_any(*names),
            audio=self._media.sound(*names),
        )
