"""VGGSound (hche11/VGGSound): ten-second clips with one of 309 sound labels.

In: `vggsound.csv` without a header, `youtube_id,start,label,train/test`, or `test.csv` (and `train.csv`) with
`{youtube_id}_{start:06d}.mp4,label`; `stat.csv` (`label,count,group`), where it is there, is the list of labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervised.data.importers.avqa import clip_group
from supervised.data.importers.captions import Described, questions
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import check_splits, read_cells
from supervised.data.importers.rows import BadRow, Row
from supervised.data.importers.shares import TWO, Shares
from supervised.data.importers.templates import SOUND_OPEN, SOUND_YES_NO, Labels
from supervised.data.sample import Sample
from supervised.errors import DataError

SPLITS = ("train", "test")
FOLDERS = ("", "data/")
SHARES: Shares = {"test": TWO["val"], "train": TWO["train"]}


@dataclass(frozen=True)
class Line:
    """Cells of a line, and the split that its file stands for where the line does not say it."""

    cells: list[str]
    split: str | None


class VGGSound:
    """Questions about the clips of VGGSound."""

    shares = SHARES

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files, and read the labels once."""
        self._config, self._media = config, media
        check_splits(config.chosen_splits, SPLITS)
        self._splits = config.chosen_splits or SPLITS
        self._files = self._find(root)
        self._published = self._read_labels(root)
        read = [cells[-1 if split else -2].strip() for split, path in self._files for _, cells in _lines(path, split)]
        self._labels = Labels(sorted(self._published or {label for label in read if label}))

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per clip."""
        for split, path in self._files:
            for number, cells in read_cells(path):
                own = split or cells[-1].strip()
                if own in self._splits or own not in SPLITS:  # the latter is refused below, with its line
                    yield Row(own, f"{path}, line {number}", Line(cells, split))

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a clip.

        Raises:
            BadRow: the line has another form, its split or label is unknown, or the clip is missing.
        """
        line: Line = row.raw
        wanted = 2 if line.split else 4
        if len(line.cells) != wanted:
            raise BadRow("wrong form", f"{len(line.cells)} cells, expected {wanted}; correct it.")
        if row.split not in SPLITS:
            raise BadRow("unknown split", f"split {row.split!r} is unknown; allowed: {', '.join(SPLITS)}; correct it.")
        name, label = self._name(line), line.cells[-1 if line.split else -2].strip()
        if label not in self._labels.labels:
            raise BadRow("unknown label", f"label {label!r} is none of the {len(self._labels.labels)} of stat.csv.")
        wrong: list[str] = []
        if self._config.questions != "open":
            wrong = self._labels.wrong(name, [label], self._config.negatives, self._config.seed)
        return questions(
            Described(name, (label,), tuple(wrong)),
            self._config,
            (SOUND_OPEN, SOUND_YES_NO),
            "Sound",
            clip_group(name),
            image=self._media.picture_if_any(name),
            audio=self._media.sound(name),
        )

    def _name(self, line: Line) -> str:
        """Return `{youtube_id}_{start:06d}`."""
        first = line.cells[0].strip()
        if line.split:
            name = first.removesuffix(".mp4")
            if not name:
                raise BadRow("blank text", "the clip's name is blank; fill it in.")
            return name
        start = line.cells[1].strip()
        if not first or not start.isdecimal():
            raise BadRow(
                "wrong form", f"expected a YouTube id and whole seconds, got {first!r}, {start!r}; correct it."
            )
        return f"{first}_{int(start):06d}"

    def _find(self, root: Path) -> list[tuple[str | None, Path]]:
        """Return the files and the split that each stands for; None: its lines say it."""
        whole = [root / f"{folder}vggsound.csv" for folder in FOLDERS]
        if there := [path for path in whole if path.is_file()]:
            return [(None, there[0])]
        parts = [(split, root / f"{folder}{split}.csv") for split in self._splits for folder in FOLDERS]
        found: list[tuple[str | None, Path]] = [(split, path) for split, path in parts if path.is_file()]
        for split in self._config.chosen_splits:
            if split not in {own for own, _ in found}:
                raise DataError(
                    f"split {split!r} has no file under {root}; looked for vggsound.csv, {split}.csv; add it."
                )
        if not found:
            raise DataError(
                f"no annotations under {root}; looked for vggsound.csv, train.csv, test.csv; give their folder with "
                "--root."
            )
        return found

    def _read_labels(self, root: Path) -> set[str]:
        """Return the labels of stat.csv; none where it is not there."""
        found: set[str] = set()
        for path in (root / f"{folder}stat.csv" for folder in FOLDERS):
            if path.is_file():
                found |= {cells[0].strip() for _, cells in read_cells(path)}
        return found


def _lines(path: Path, split: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of the right width."""
    return (line for line in read_cells(path) if len(line[1]) == (2 if split else 4))
