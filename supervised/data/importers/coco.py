"""COCO captions as published: about five captions for each picture, for retention.

In: `captions_{train,val}{2014,2017}.json` = `{images: [{id, file_name}], annotations: [{image_id, caption}]}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervised.data.importers.captions import Described, Gathered, check, questions
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_list
from supervised.data.importers.rows import BadRow, Row, identifier, text
from supervised.data.importers.shares import TWO
from supervised.data.importers.templates import SEEN_OPEN, SEEN_YES_NO
from supervised.data.sample import Sample

FILES = {
    split: tuple(f"{folder}captions_{split}{year}.json" for year in (2014, 2017) for folder in ("", "annotations/"))
    for split in ("train", "val")
}


class COCO:
    """Questions about the pictures of COCO captions, as published."""

    shares = TWO

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._config, self._media = config, media
        self._files = find_files(root, FILES, config.chosen_splits)
        self._names: dict[str, str] = {}

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per picture."""
        for split, path in self._files.items():
            gathered, ids = Gathered(split, self._config), set()
            folder = path.stem.removeprefix("captions_")
            self._names |= {
                image: f"{folder}/{name}"
                for image, name in _file_names(read_list(path, None, "images"), path, gathered)
            }
            for number, raw in enumerate(read_list(path, None, "annotations"), 1):
                where = f"{path}, annotation {number}"
                try:
                    image, caption = identifier(raw, "image_id"), identifier(raw, "id")
                    if image not in self._names:
                        raise BadRow("unknown picture", f"image_id {image} is not among 'images'; correct it.")
                    if caption in ids:
                        raise BadRow("doubled id", f"caption id {caption} stands twice in this file; remove one.")
                    ids.add(caption)
                    gathered.add(image, text(raw, "caption"), where)
                except BadRow as problem:
                    gathered.refuse(where, problem)
            yield from gathered.rows()

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a picture.

        Raises:
            BadRow: the row cannot be used, or the picture is missing.
        """
        return seen_questions(row, self._names, self._config, self._media)


def seen_questions(row: Row, names: dict[str, str], config: ImportConfig, media: Media) -> list[Sample]:
    """Return the questions about a picture of COCO.

    Args:
        row: a described picture.
        names: file of every picture, by its name.
        config: of the import.
        media: where the pictures lie.

    Raises:
        BadRow: the row cannot be used, or the picture is missing.
    """
    picture: Described = check(row.raw)
    name = names[picture.name]
    return questions(
        picture,
        config,
        (SEEN_OPEN, SEEN_YES_NO),
        "Caption",
        f"coco-{picture.name}",
        image=media.picture(name, name.rpartition("/")[2]),
        retention_set="coco",
    )


def _file_names(images: list[Any], path: Path, gathered: Gathered) -> Iterator[tuple[str, str]]:
    """Yield id and file name of the pictures."""
    for number, raw in enumerate(images, 1):
        try:
            yield identifier(raw, "id"), text(raw, "file_name")
        except BadRow as problem:
            gathered.refuse(f"{path}, image {number}", problem)
