"""COCO captions in Karpathy's splits, in both published forms.

In: `dataset_coco.json` = `{"images": [{filename, filepath, cocoid, split, sentences: [{raw}]}]}`, where `filepath`
names the folder and says nothing about the split; or LAVIS' `coco_karpathy_{train,val,test}.json`, lists of
`{image, caption, image_id}` with one caption or a list of them. `restval` counts as training, as usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervised.data.importers.captions import Gathered
from supervised.data.importers.coco import seen_questions
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import check_splits, find_files, read_list
from supervised.data.importers.rows import BadRow, Row, brief, entries, identifier, known, need, text
from supervised.data.importers.shares import THREE
from supervised.data.sample import Sample
from supervised.errors import DataError

WHOLE = "dataset_coco.json"
SPLITS = ("train", "restval", "val", "test")
LISTS = {split: (f"coco_karpathy_{split}.json",) for split in ("train", "val", "test")}


class CocoKarpathy:
    """Questions about the pictures of COCO captions, in Karpathy's splits."""

    shares = THREE

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._config, self._media = config, media
        self._names: dict[str, str] = {}
        self._whole = root / WHOLE if (root / WHOLE).is_file() else None
        check_splits(config.chosen_splits, tuple(LISTS))
        if self._whole and any((root / names[0]).is_file() for names in LISTS.values()):
            raise DataError(f"{root} holds {WHOLE} and coco_karpathy_*.json; keep one form of the captions.")
        self._lists = {} if self._whole else find_files(root, LISTS, config.chosen_splits)

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per picture."""
        parts = {split: Gathered(split, self._config) for split in LISTS}
        if self._whole:
            for number, raw in enumerate(read_list(self._whole, None, "images"), 1):
                self._take_whole(raw, f"{self._whole}, image {number}", parts)
        for split, path in self._lists.items():
            for number, raw in enumerate(read_list(path), 1):
                self._take(raw, f"{path}, row {number}", parts[split])
        for split in self._config.chosen_splits or LISTS:
            yield from parts[split].rows()

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a picture.

        Raises:
            BadRow: the row cannot be used, or the picture is missing.
        """
        return seen_questions(row, self._names, self._config, self._media)

    def _take_whole(self, raw: Any, where: str, parts: dict[str, Gathered]) -> None:
        """Take in an image of `dataset_coco.json`."""
        gathered = parts["train"]
        try:
            split = known(text(raw, "split"), SPLITS, "split")
            gathered = parts["train" if split == "restval" else split]
            image = identifier(raw, "cocoid")
            if any(image in part.texts for part in parts.values()):
                raise BadRow("doubled id", f"cocoid {image} stands twice in this file; remove one.")
            captions = [text(sentence, "raw") for sentence in entries(raw, "sentences")]
            if not captions:
                raise BadRow("missing caption", f"cocoid {image} has no sentence; add one or remove it.")
            self._names[image] = f"{text(raw, 'filepath')}/{text(raw, 'filename')}"
            for caption in captions:
                gathered.add(image, caption, where)
        except BadRow as problem:
            gathered.refuse(where, problem)

    def _take(self, raw: Any, where: str, gathered: Gathered) -> None:
        """Take in a row of LAVIS' lists; the train list has one row per caption."""
        try:
            name = text(raw, "image")
            image = _number(name)
            captions = need(raw, "caption")
            captions = [captions] if isinstance(captions, str) else captions
            if not isinstance(captions, list) or not captions:
                raise BadRow("wrong type", f"'caption' must be a text or a list, got {brief(captions)}; correct it.")
            found = [text({"caption": caption}, "caption") for caption in captions]
            self._names[image] = name
            for caption in found:
                gathered.add(image, caption, where)
        except BadRow as problem:
            gathered.refuse(where, problem)


def _number(name: str) -> str:
    """Return COCO's number of a picture, from its file name: `image_id` of the train list is a running one.

    Raises:
        BadRow: the name does not end in a number.
    """
    digits = name.rpartition("/")[2].partition(".")[0].rpartition("_")[2]
    if not digits.isdecimal():
        raise BadRow("unknown picture", f"image {name!r} does not end in COCO's number; correct it.")
    return str(int(digits))
