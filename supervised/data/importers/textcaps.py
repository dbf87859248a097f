"""TextCaps: captions of pictures that hold writing, for retention.

In: `TextCaps_0.1_{train,val}.json` = `{"data": [{image_id, caption_id, caption_str, reference_strs, ...}]}`, one row
per caption. The captions of `test` are not published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from supervised.data.importers.captions import Described, Gathered, check, questions
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_list
from supervised.data.importers.rows import BadRow, LeftOut, Row, identifier, text
from supervised.data.importers.shares import TWO
from supervised.data.importers.templates import SEEN_OPEN, SEEN_YES_NO
from supervised.data.sample import Sample

FILES = {split: (f"TextCaps_0.1_{split}.json",) for split in ("train", "val")}


class TextCaps:
    """Questions about the pictures of TextCaps."""

    shares = TWO

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._config, self._media = config, media
        self._files = find_files(root, FILES, config.chosen_splits)

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per picture."""
        for split, path in self._files.items():
            gathered, ids = Gathered(split, self._config), set()
            for number, raw in enumerate(read_list(path, None, "data"), 1):
                where = f"{path}, row {number}"
                try:
                    image, caption = identifier(raw, "image_id"), identifier(raw, "caption_id")
                    if caption in ids:
                        raise BadRow("doubled id", f"caption_id {caption} stands twice in this file; remove one.")
                    ids.add(caption)
                    if "caption_str" not in raw:
                        raise LeftOut("row without caption_str")  # the dataset has a few, upstream loaders drop them
                    gathered.add(image, text(raw, "caption_str"), where)
                except (BadRow, LeftOut) as problem:
                    gathered.refuse(where, problem)
            yield from gathered.rows()

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a picture.

        Raises:
            BadRow: the row cannot be used, or the picture is missing.
            LeftOut: the row has no caption.
        """
        picture: Described = check(row.raw)
        return questions(
            picture,
            self._config,
            (SEEN_OPEN, SEEN_YES_NO),
            "Caption",
            f"textcaps-{picture.name}",
            image=self._media.picture(picture.name),
            retention_set="textcaps",
        )
