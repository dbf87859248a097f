"""AVSD: dialogues about the videos of Charades, in both published forms.

In: form A, `{video: {"data": [{question, answer}, ...], "script", "summary"}}`, or form B (DSTC7, DSTC10),
`{"dialogs": [{image_id, caption, summary, dialog: [{question, answer}, ...]}]}`. Caption, script and summary are not
read: with them a model answers without seeing or hearing. In test files of form B only the last turn is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_json
from supervised.data.importers.rows import BadRow, Doubled, LeftOut, Row, entries, identifier, text
from supervised.data.importers.shares import THREE
from supervised.data.sample import Sample
from supervised.errors import DataError

FILES = {
    "train": ("avsd_train.json", "train_set4DSTC7-AVSD.json", "train_set4DSTC10-AVSD.json"),
    "val": ("avsd_val.json", "valid_set4DSTC7-AVSD.json", "valid_set4DSTC10-AVSD.json"),
    "test": ("avsd_test.json", "test_set4DSTC7-AVSD.json", "test_set4DSTC8-AVSD.json", "test_set4DSTC10-AVSD.json"),
}
UNDISCLOSED = "__UNDISCLOSED__"
"""Stands in the place of answers that the organisers kept."""
HISTORY = "Earlier: {turns} Now: {question}"
TURN = "Q: {question} A: {answer}"


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue, the `raw` of a row."""

    dialogue: Any
    """The object that holds the turns."""
    key: str
    """Where in it they stand."""
    video: Any
    """The video's name; None: the object says it."""
    number: int
    """Of the turn, from 0."""
    twice: bool = False
    """The file has another dialogue of that name."""


class AVSD:
    """The turns of AVSD's dialogues."""

    shares = THREE

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._files = find_files(root, FILES, config.chosen_splits)
        self._media, self._history = media, config.history

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per turn."""
        for split, path in self._files.items():
            for number, (first, last_only) in enumerate(_dialogues(read_json(path), path, split == "test"), 1):
                turns = first.dialogue.get(first.key) if isinstance(first.dialogue, dict) else None
                count = len(turns) if isinstance(turns, list) else 1
                for turn in range(count - 1 if last_only and count else 0, count):
                    where = f"{path}, dialogue {number}, turn {turn + 1}"
                    yield Row(split, where, replace(first, number=turn))

    def samples(self, row: Row) -> list[Sample]:
        """Return the turn's question, after as many earlier turns as `history` allows.

        Raises:
            BadRow: the dialogue stands twice, a key is missing or doubled, a text is blank, or media are missing.
            LeftOut: the answer was never published.
        """
        turn: Turn = row.raw
        if turn.twice:
            raise BadRow("doubled id", f"dialogue {turn.video!r} stands twice in this file; keep one.")
        named = turn.dialogue if turn.video is None else {"image_id": turn.video}
        video = identifier(named, "image_id")
        turns = entries(turn.dialogue, turn.key)
        question, answer = _pair(turns[turn.number])
        if answer == UNDISCLOSED:
            raise LeftOut("answer not published")
        earlier = [_pair(each) for each in turns[max(0, turn.number - self._history) : turn.number]]
        if earlier:
            told = " ".join(TURN.format(question=asked, answer=said) for asked, said in earlier)
            question = HISTORY.format(turns=told, question=question)
        return [
            Sample(
                f"avsd-{row.split}-{video}-{turn.number + 1}",
                question,
                (answer,),
                self._media.picture(video),
                self._media.sound(video),
                None,
                "Dialogue",
                f"charades-{video}",
                metric="bleu",
            )
        ]


def _dialogues(content: Any, path: Path, test: bool) -> Iterator[tuple[Turn, bool]]:
    """Yield the first turn of every dialogue, and whether the last turn alone is asked."""
    wrong = DataError(
        f"{path}: neither {{video: {{'data': [...]}}}} nor {{'dialogs': [...]}}; files with answer options are derived "
        "ones, give the dataset's raw dialogues."
    )
    if not isinstance(content, dict) or not content:
        raise wrong
    if isinstance(content.get("dialogs"), list):
        if isinstance(content, Doubled):
            raise DataError(f"{path}: key {content.key!r} stands twice at the top; keep one.")
        for each in content["dialogs"]:
            yield Turn(each, "dialog", None, 0), test
        return
    if "data" in content and "version" in content:
        raise wrong
    twice = frozenset(content.twice if isinstance(content, Doubled) else ())
    for video, each in content.items():
        if not isinstance(each, dict):
            raise wrong
        yield Turn(each, "data", video, 0, video in twice), False


def _pair(turn: Any) -> tuple[str, str]:
    """Return question and answer of a turn; of a derived file, where they are numbers, nothing."""
    if isinstance(turn, dict) and isinstance(turn.get("answer"), int):
        raise BadRow("derived file", "the answer is a number; this is a derived file, give the raw dialogues.")
    return text(turn, "question"), text(turn, "answer")
