"""Questions about clips and pictures that have texts: captions, sound labels or transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from supervised.data.importers.config import ImportConfig
from supervised.data.importers.rows import Row
from supervised.data.importers.templates import ask, other_texts
from supervised.data.sample import Sample


@dataclass(frozen=True)
class Described:
    """A clip or picture and its texts: the `raw` of a row."""

    name: str
    """Its name within the dataset."""
    texts: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    """Texts that are not true of it."""
    problem: Exception | None = None
    """Why it cannot be used, or is left out; raised when its questions are asked for."""


@dataclass
class Gathered:
    """The clips or pictures of one file, gathered from its rows, of which several may describe one."""

    split: str
    config: ImportConfig
    texts: dict[str, list[str]] = field(default_factory=dict)
    _where: dict[str, str] = field(default_factory=dict)
    _problems: list[tuple[str, Exception]] = field(default_factory=list)

    def add(self, name: str, text: str, where: str) -> None:
        """Take in one text."""
        self.texts.setdefault(name, []).append(text)
        self._where.setdefault(name, where)

    def refuse(self, where: str, problem: Exception) -> None:
        """Remember a row that gives no text."""
        self._problems.append((where, problem))

    def rows(self) -> Iterable[Row]:
        """Yield one row per clip, with texts of others to ask about, and the rows that gave none."""
        for where, problem in self._problems:
            yield Row(self.split, where, Described("", (), problem=problem))
        clips = tuple(self.texts)
        for name, found in self.texts.items():
            wrong: Sequence[str] = ()
            if self.config.questions != "open":
                wrong = other_texts(name, self.texts, clips, self.config.negatives, self.config.seed)
            yield Row(self.split, self._where[name], Described(name, tuple(found), tuple(wrong)))


def questions(
    described: Described,
    config: ImportConfig,
    sentences: tuple[Sequence[str], Sequence[str]],
    kind: str,
    group: str,
    *,
    image: Path | None = None,
    audio: Path | None = None,
    retention_set: str | None = None,
    split: str = "",
) -> list[Sample]:
    """Return the questions that the templates give about a clip or picture.

    Args:
        described: it and its texts.
        config: which forms are asked, and the seed.
        sentences: templates of open questions, and of yes-or-no questions.
        kind: first half of the type, such as `Caption`; the second is the form.
        group: the cluster.
        image: the picture.
        audio: the clip.
        retention_set: the set's name, where no audio is needed.
        split: own split, part of the ids where a dataset uses a name twice.
    """
    start = "-".join(filter(None, (config.dataset, split, described.name)))
    return [
        Sample(
            f"{start}-{asked.name}",
            asked.question,
            asked.answers,
            image,
            audio,
            retention_set,
            f"{kind}/{asked.form}",
            group,
            metric="bleu" if asked.form == "open" and kind != "Sound" else None,
        )
        for asked in ask(described.name, described.texts, described.wrong, sentences, config.questions, config.seed)
    ]


def check(described: Described) -> Described:
    """Return it, unless its row was refused.

    Raises:
        BadRow: the row cannot be used.
        LeftOut: it is left out on purpose.
    """
    if described.problem is not None:
        raise described.problem
    return described


def youtube_group(name: str) -> str:
    """Return the cluster of a clip of a YouTube video, whatever part of it the clip is.

    >>> youtube_group("glLQrEijrKg")
    'youtube-glLQrEijrKg'
    """
    return f"youtube-{name}"
