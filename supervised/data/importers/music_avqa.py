"""MUSIC-AVQA (GeWu-Lab/MUSIC-AVQA) and its balanced edition v2.0 (DragonLiu1995/MUSIC-AVQA-v2.0).

In: lists of rows `{video_id, question_id, type, question_content, templ_values, question_deleted, anser}`. Questions
are templates whose tags are filled by position. v2.0 adds rows without `question_id`, lists in the place of JSON
texts, flipped videos, and pairs of a video with the sound of another one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_list
from supervised.data.importers.rows import BadRow, LeftOut, Row, brief, identifier, known, need, text
from supervised.data.importers.shares import THREE
from supervised.data.sample import Sample
from supervised.metrics.types import MUSIC_AVQA_TYPES

FIRST = {
    split: tuple(f"{folder}avqa-{split}.json" for folder in ("", "json_update/", "data/json_update/"))
    for split in ("train", "val", "test")
}
"""Own split -> names of its file. The uncorrected `data/json/` is not read."""
VARIANTS = ("balance", "bias")
MODALITIES = ("Audio", "Visual", "Audio-Visual")
INSTRUMENTS = (
    "accordion acoustic_guitar bagpipe banjo bassoon cello clarinet congas drum electric_bass erhu flute guzheng piano "
    "pipa saxophone suona trumpet tuba ukulele violin xylophone"
).split()
NUMBERS = "zero one two three four five six seven eight nine ten".split()
ANSWERS = tuple(
    name.replace("_", " ")
    for name in (
        *INSTRUMENTS,
        *NUMBERS,
        *("more than ten", "yes", "no", "left", "middle", "right", "indoor", "outdoor", "simultaneously"),
    )
)
"""The closed set of 42 answers, underscores written as spaces."""
PLACEHOLDERS = ("<Object>", "<LR>", "<FL>", "<TH>", "<LRer>", "<LL>", "<BA>")
_TAG = re.compile(r"<[^<>]*>")


def v2_files(variant: str) -> dict[str, tuple[str, ...]]:
    """Return own split -> names of its file; the validation files are those of AIM-SKKU/QA-TIGER."""
    folder = {"balance": "balance_full_set", "bias": "bias_set"}[variant]
    names = {
        "train": [f"train_{variant}.json"],
        "val": [f"{variant}_valid.json", f"valid_{variant}.json"],
        "test": [f"test_{variant}.json"],
    }
    folders = ("", f"{folder}/", f"data/{folder}/")
    return {split: tuple(f"{each}{name}" for each in folders for name in found) for split, found in names.items()}


class MusicAVQA:
    """The questions of MUSIC-AVQA, or of v2.0."""

    shares = THREE

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files; v2.0 reads them once for which videos belong together."""
        self._dataset, self._media = config.dataset, media
        second = config.dataset == "music_avqa_v2"
        names = v2_files(config.variant or VARIANTS[0]) if second else FIRST
        self._files = find_files(root, names, config.chosen_splits)
        self._first: dict[str, str] = {}
        if second:
            for row in self:
                self._join(row.raw)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of all files."""
        for split, path in self._files.items():
            for number, raw in enumerate(read_list(path), 1):
                yield Row(split, f"{path}, row {number}", raw)

    def samples(self, row: Row) -> list[Sample]:
        """Return the row's question.

        Raises:
            BadRow: a key is missing or doubled, a tag, type or answer is unknown, tags and values differ in number, or
                media are missing.
            LeftOut: the dataset itself has deleted the question.
        """
        raw = row.raw
        video = identifier(raw, "video_id")
        if raw.get("question_deleted"):
            raise LeftOut("question_deleted is set")
        question = fill(text(raw, "question_content"), texts(need(raw, "templ_values"), "templ_values"))
        kind = known("/".join(texts(need(raw, "type"), "type")), MUSIC_AVQA_TYPES, "type")
        answer = text(raw, "anser" if "anser" in raw else "answer").replace("_", " ").lower()
        if answer not in ANSWERS:
            raise BadRow("unknown answer", f"answer {answer!r} is none of the {len(ANSWERS)}; correct it.")
        name = identifier(raw, "question_id") if raw.get("question_id") is not None else _synthetic(video, row.where)
        other = identifier(raw, "unmatch_audio") if raw.get("unmatch_audio") is not None else video
        return [
            Sample(
                f"{self._dataset}-{row.split}-{name}",
                question,
                (answer,),
                self._media.picture(video),
                self._media.sound(other),  # of another video where the question is whether the two belong together
                None,
                kind,
                self._group(video),
            )
        ]

    def _group(self, video: str) -> str:
        group = cluster(video)
        while group in self._first:
            group = self._first[group]
        return group

    def _join(self, raw: Any) -> None:
        """Make one cluster of a video and of another one whose sound it is shown with."""
        if isinstance(raw, dict) and raw.get("unmatch_audio") is not None and raw.get("video_id") is not None:
            pair = sorted({self._group(str(raw["video_id"])), self._group(str(raw["unmatch_audio"]))})
            if len(pair) == 2:
                self._first[pair[1]] = pair[0]


def fill(template: str, values: list[str]) -> str:
    r"""Return the question with its tags filled by position, underscores as spaces, and an ASCII question mark.

    >>> fill("Is the <FL> sound coming from the <LR> instrument\uff1f ", ["first", "left"])
    'Is the first sound coming from the left instrument?'

    Raises:
        BadRow: a tag is unknown, a value is no name, or there are not as many values as tags.
    """
    tags = _TAG.findall(template)
    for tag in tags:
        if tag not in PLACEHOLDERS:
            raise BadRow(
                "unknown placeholder", f"placeholder {tag} is unknown; allowed: {', '.join(PLACEHOLDERS)}; correct it."
            )
    if len(tags) != len(values):
        raise BadRow(
            "placeholders and values differ",
            f"{len(tags)} placeholders and {len(values)} values in 'templ_values'; there must be as many, correct it.",
        )
    for value in values:
        if not value.strip() or "<" in value or ">" in value:
            raise BadRow("bad value", f"value {value!r} of a placeholder is no name; correct it.")
    given = iter(values)
    question = _TAG.sub(lambda _: next(given).replace("_", " "), template)
    if "<" in question or ">" in question:
        raise BadRow("unknown placeholder", f"question {question!r} holds half a placeholder; correct it.")
    return " ".join(question.replace("\uff1f", "?").split())  # the full-width question mark of one template


def texts(value: Any, key: str) -> list[str]:
    """Return a list of texts that stands as a list, or as JSON or Python in a text.

    >>> texts('["Audio", "Counting"]', "type") == texts(["Audio", "Counting"], "type")
    True

    Raises:
        BadRow: it is neither.
    """
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            try:
                found = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BadRow("wrong type", f"{key!r} must be a list of texts, also as JSON in a text, got {brief(value)}.")
    return found


def cluster(video: str) -> str:
    """Return the cluster of a video: mirrored and cut copies go with their original, synthetic ones with their number.

    >>> [cluster(name) for name in ("00000028", "sa00000028", "6cjIJVzP6eI_#04", "-PbwOVnJAlI_flip")]
    ['musicavqa-00000028', 'musicavqa-00000028', 'youtube-6cjIJVzP6eI', 'youtube--PbwOVnJAlI']
    """
    if numbered := re.fullmatch(r"[a-z]*(\d{8})(_flip)?", video):
        return f"musicavqa-{numbered[1]}"
    return f"youtube-{re.sub(r'(_flip|_#[0-9]+)+$', '', video)}"


def _synthetic(video: str, where: str) -> str:
    """Return a name for a question without id: its video and its row."""
    return f"{video}#{where.rpartition(' ')[2]}"
