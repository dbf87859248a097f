"""Speech clips with transcripts in the layout of LRS3.

In: `{pretrain,trainval,test}/{talk}/{clip}.txt` beside `{clip}.mp4` (or a clip and a picture of that name). A text file
begins with `Text:  WHAT IS SAID`; the lines after it (`Conf:`, `Ref:`, words with their times) are not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from supervised.data.importers.captions import Described, Gathered, check, questions, youtube_group
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import check_splits
from supervised.data.importers.rows import BadRow, LeftOut, Row
from supervised.data.importers.shares import TWO, Shares
from supervised.data.importers.templates import SAID_OPEN, SAID_YES_NO
from supervised.data.sample import Sample
from supervised.errors import DataError

SPLITS = ("test", "trainval", "pretrain")
SHARES: Shares = {"test": TWO["val"], "trainval": TWO["train"], "pretrain": TWO["train"]}
_NOISE = re.compile(r"\{[^{}]*\}")
"""Marks of what is no word, such as laughter."""


class LRS3:
    """Questions about speech clips."""

    shares = SHARES

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the folders of the splits."""
        self._config, self._media, self._root = config, media, root
        check_splits(config.chosen_splits, SPLITS)
        self._splits = [split for split in config.chosen_splits or SPLITS if (root / split).is_dir()]
        missing = [split for split in config.chosen_splits if split not in self._splits]
        if missing or not self._splits:
            looked = ", ".join(f"{split}/" for split in missing or SPLITS)
            raise DataError(f"no such folder under {root}: {looked}; give the folder that holds them with --root.")

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per clip."""
        for split in self._splits:
            gathered = Gathered(split, self._config)
            for path in sorted((self._root / split).glob("*/*.txt")):
                try:
                    gathered.add(f"{split}/{path.parent.name}/{path.stem}", transcript(path), str(path))
                except (BadRow, LeftOut) as problem:
                    gathered.refuse(f"{path}, line 1", problem)
            yield from gathered.rows()

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a clip.

        Raises:
            BadRow: the row cannot be used, or the clip is missing.
            LeftOut: nothing is said.
        """
        clip: Described = check(row.raw)
        return questions(
            clip,
            self._config,
            (SAID_OPEN, SAID_YES_NO),
            "Speech",
            youtube_group(clip.name.split("/")[1]),
            image=self._media.picture_if_any(clip.name),
            audio=self._media.sound(clip.name),
        )


def transcript(path: Path) -> str:
    """Return what is said, in lower case (LRS3 writes capitals) and without marks of what is no word.

    Raises:
        BadRow: the file does not begin with `Text:`.
        LeftOut: there is no word.
    """
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = raw.decode("iso-8859-1")
    first = (content.splitlines() or [""])[0]
    if not first.startswith("Text:"):
        raise BadRow("wrong form", f"expected 'Text:  ...' in the first line, got {first[:40]!r}; correct it.")
    said = " ".join(_NOISE.sub(" ", first.removeprefix("Text:")).split()).lower()
    if not said:
        raise LeftOut("nothing is said")
    return said
