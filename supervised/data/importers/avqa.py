"""AVQA (AlyssaYoung/AVQA): questions with four choices about ten-second clips of VGGSound.

In: lists of rows `{question_text, multi_choice, answer, video_name, question_type}`; `answer` is the position of the
right choice. Choices that are null or `NULL` fill up shorter lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from supervised.data.importers.captions import youtube_group
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_list
from supervised.data.importers.rows import BadRow, Row, brief, entries, identifier, known, need, text
from supervised.data.importers.shares import TWO
from supervised.data.sample import Sample
from supervised.metrics.exact import normalise

FILES = {split: (f"{split}_qa.json", f"data/annotation/{split}_qa.json") for split in ("train", "val")}
TYPES = ("Which", "Come From", "Happening", "Where", "Why", "Before Next", "When", "Used For")
RELATIONS = ("Audio", "Visual", "Both")
CHOICES = "{question} Options: {choices}."
CHOICE = "{letter}. {text}"
"""The question as it is asked; options are separated by semicolons. The answer is one's text."""


class AVQA:
    """The questions of AVQA."""

    shares = TWO

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._files, self._media = find_files(root, FILES, config.chosen_splits), media

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of all files."""
        for split, path in self._files.items():
            for number, raw in enumerate(read_list(path), 1):
                yield Row(split, f"{path}, row {number}", raw)

    def samples(self, row: Row) -> list[Sample]:
        """Return the row's question.

        Raises:
            BadRow: a key is missing or doubled, the type is unknown, the answer's position is out of range, a choice
                stands twice, or media are missing.
        """
        raw = row.raw
        choices = [_choice(each) for each in entries(raw, "multi_choice")]
        position = need(raw, "answer")
        if isinstance(position, bool) or not isinstance(position, int):
            raise BadRow("wrong type", f"'answer' must be the position of a choice, got {brief(position)}; correct it.")
        answer = choices[position] if 0 <= position < len(choices) else None
        if answer is None:
            raise BadRow(
                "answer out of range",
                f"answer {position} is not the position of a choice; allowed: 0 to {len(choices) - 1}, and not one "
                "that is null; correct it.",
            )
        given = [choice for choice in choices if choice is not None]
        if [normalise(choice) for choice in given].count(normalise(answer)) > 1:
            raise BadRow("doubled choice", f"the right choice {answer!r} stands twice; correct it.")
        options = [
            CHOICE.format(letter=letter, text=choice) for letter, choice in zip(ascii_uppercase, given, strict=False)
        ]
        kind = known(text(raw, "question_type"), TYPES, "type")
        if raw.get("question_relation") is not None:
            kind = f"{known(text(raw, 'question_relation'), RELATIONS, 'relation')}/{kind}"
        clip = text(raw, "video_name")
        name = identifier(raw, "id") if raw.get("id") is not None else f"{clip}#{row.where.rpartition(' ')[2]}"
        question = text(raw, "question_text")
        return [
            Sample(
                f"avqa-{row.split}-{name}",
                CHOICES.format(question=question, choices="; ".join(options)),
                (answer,),
                self._media.picture(clip),
                self._media.sound(clip),
                None,
                kind,
                clip_group(clip),
                choices=tuple(given),
            )
        ]


def clip_group(clip: str) -> str:
    """Return the cluster of a clip `{YouTube id}_{start}`.

    >>> clip_group("_tUgJ-z5V-k_000030.mp4")
    'youtube-_tUgJ-z5V-k'
    """
    return youtube_group(re.sub(r"_[0-9]{1,6}(\.mp4)?$", "", clip))


def _choice(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.strip() in ("", "NULL")):
        return None
    if not isinstance(value, str):
        raise BadRow("wrong type", f"a choice must be a text or null, got {brief(value)}; correct it.")
    return value.strip()
