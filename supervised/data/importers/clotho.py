"""Clotho: five captions for each of some thousand clips from Freesound.

In: `clotho_captions_{development,validation,evaluation}.csv` with the columns `file_name,caption_1..caption_5`. Where
`clotho_metadata_*.csv` lies beside it, its keywords (separated by `;`) are asked about like sound labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervised.data.importers.captions import Described, Gathered, check, questions
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_cells, read_table
from supervised.data.importers.rows import BadRow, Row, text
from supervised.data.importers.shares import THREE
from supervised.data.importers.templates import HEARD_OPEN, HEARD_YES_NO, SOUND_OPEN, SOUND_YES_NO, Labels
from supervised.data.sample import Sample
from supervised.errors import DataError

NAMES = {"train": "development", "val": "validation", "test": "evaluation"}
"""Own split by the name that --split takes -> by the name that its files bear."""
FILES = {split: (f"clotho_captions_{name}.csv",) for split, name in NAMES.items()}
COLUMNS = ("file_name", *(f"caption_{number}" for number in range(1, 6)))


@dataclass(frozen=True)
class Clip:
    """The `raw` of a row: a clip with captions, or with keywords."""

    described: Described
    keywords: bool


class Clotho:
    """Questions about the clips of Clotho."""

    shares = THREE

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._config, self._media = config, media
        self._files = find_files(root, FILES, config.chosen_splits)

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per clip, and another one where it has keywords."""
        for split, path in self._files.items():
            gathered = Gathered(split, self._config)
            for line, raw in read_table(path, COLUMNS):
                where = f"{path}, line {line}"
                try:
                    name = text(raw, "file_name")
                    captions = [text(raw, column) for column in COLUMNS[1:]]
                    if name in gathered.texts:
                        raise BadRow("doubled id", f"file_name {name!r} stands twice in this file; remove one.")
                    for caption in captions:
                        gathered.add(name, caption, where)
                except BadRow as problem:
                    gathered.refuse(where, problem)
            for row in gathered.rows():
                yield Row(split, row.where, Clip(row.raw, False))
            metadata = path.parent / f"clotho_metadata_{NAMES[split]}.csv"
            if metadata.is_file() and self._config.questions != "open":
                yield from self._keyword_rows(split, metadata, set(gathered.texts))

    def samples(self, row: Row) -> list[Sample]:
        """Return the questions about a clip.

        Raises:
            BadRow: the row cannot be used, or the clip is missing.
        """
        clip: Clip = row.raw
        name = check(clip.described).name
        found = questions(
            clip.described,
            self._config,
            (SOUND_OPEN, SOUND_YES_NO) if clip.keywords else (HEARD_OPEN, HEARD_YES_NO),
            "Sound" if clip.keywords else "Caption",
            f"clotho-{name}",
            audio=self._media.sound(f"{NAMES[row.split]}/{name}", name),
            split="keywords" if clip.keywords else "",
        )
        # Nobody asks for a keyword in the open: a clip has many, in no order.
        return [sample for sample in found if not (clip.keywords and sample.type == "Sound/open")]

    def _keyword_rows(self, split: str, path: Path, clips: set[str]) -> Iterator[Row]:
        """Yield a row per clip with keywords; other lines, such as those of clips without captions, say nothing."""
        rows = [(line, name, words) for line, name, words in read_keywords(path) if name in clips and words]
        labels = Labels([word for _, _, words in rows for word in words])
        for line, name, words in rows:
            wrong = labels.wrong(name, words, self._config.negatives, self._config.seed)
            yield Row(split, f"{path}, line {line}", Clip(Described(name, words, tuple(wrong)), True))


def read_keywords(path: Path) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return line, file name and keywords of a metadata file, in UTF-8 or ISO-8859-1, with commas or semicolons.

    Raises:
        DataError: a column is missing, or a row has another number of cells than the header.
    """
    raw = path.read_bytes()
    try:
        raw.decode("utf-8-sig")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "iso-8859-1"  # v2 and v2.1
    header = raw.split(b"\n", 1)[0]
    lines = read_cells(path, encoding, ";" if header.count(b";") > header.count(b",") else ",")
    _, first = next(lines, (1, []))
    columns = [name.strip() for name in first]
    for name in ("file_name", "keywords"):
        if columns.count(name) != 1:
            raise DataError(f"{path}, line 1: column {name!r} must stand there once; give the dataset's own file.")
    found = []
    for line, cells in lines:
        if len(cells) != len(columns):
            raise DataError(f"{path}, line {line}: {len(cells)} cells, the header has {len(columns)}; correct it.")
        row = dict(zip(columns, cells, strict=True))
        words = dict.fromkeys(word.strip() for word in row["keywords"].split(";") if word.strip())
        found.append((line, row["file_name"].strip(), tuple(words)))
    return found
