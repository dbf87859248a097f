"""Rows of annotation files, as every importer gives them, and what can be wrong with one.

An importer yields a `Row` per entry of its files and turns each into samples. A row that cannot be used raises
`BadRow`, with a kind that a report can count; one that is left out on purpose raises `LeftOut`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from supervised.data.importers.shares import Shares
from supervised.data.sample import Sample
from supervised.errors import DataError


class BadRow(DataError):
    """A row that cannot be used.

    Attributes:
        kind: what is wrong in few words, the same for all rows with this mistake.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LeftOut(Exception):
    """A row that is left out on purpose, such as one without a published answer; the text says why."""


class Doubled(dict[str, Any]):
    """A JSON object in which a key stands twice.

    Attributes:
        twice: those keys.
    """

    twice: tuple[str, ...]

    @property
    def key(self) -> str:
        """The first of them."""
        return self.twice[0]


@dataclass(frozen=True)
class Row:
    """One entry of an annotation file."""

    split: str
    """The dataset's own name of its split."""
    where: str
    """File and place in it."""
    raw: Any
    """What stands there, and what other files say about it."""


class Rows(Protocol):
    """An importer's way through the files; it can be walked again and gives the same rows."""

    @property
    def shares(self) -> Shares:
        """Own split -> our splits and their shares."""

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""

    def samples(self, row: Row) -> list[Sample]:
        """Return the row's questions.

        Raises:
            BadRow: it cannot be used.
            LeftOut: it is left out on purpose.
        """


def need(raw: Any, key: str) -> Any:
    """Return the value of a key that must be there once.

    Raises:
        BadRow: `raw` is no object, the key is missing or null, or a key stands twice.
    """
    if not isinstance(raw, Mapping):
        raise BadRow("not an object", f"expected one value for each key or column, got {brief(raw)}; correct it.")
    if isinstance(raw, Doubled):
        raise BadRow("doubled key", f"key {raw.key!r} stands twice in the object; keep one.")
    if raw.get(key) is None:
        raise BadRow("missing key", f"key {key!r} is missing; there are: {', '.join(map(str, raw))}; add it.")
    return raw[key]


def text(raw: Any, key: str) -> str:
    """Return a text that must be there and not be blank, stripped.

    Raises:
        BadRow: missing, of another type, blank, or with half a character.
    """
    value = need(raw, key)
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{key!r} must be a text, got {brief(value)}; correct it.")
    if not value.strip():
        raise BadRow("blank text", f"{key!r} is blank; fill it in.")
    return _whole(value.strip(), key)


def identifier(raw: Any, key: str) -> str:
    """Return an id as a text: ids are written as texts, whole numbers and whole floats.

    Raises:
        BadRow: missing, blank, of another type, or with half a character.
    """
    value = need(raw, key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise BadRow("wrong type", f"{key!r} must be a text or a whole number, got {brief(value)}; correct it.")
    return _whole(str(value).strip(), key)


def entries(raw: Any, key: str) -> list[Any]:
    """Return a list that must be there.

    Raises:
        BadRow: missing or not a list.
    """
    value = need(raw, key)
    if not isinstance(value, list):
        raise BadRow("wrong type", f"{key!r} must be a list, got {brief(value)}; correct it.")
    return value


def known(value: str, allowed: tuple[str, ...], what: str) -> str:
    """Return the spelling that we know of a label: case, spaces, hyphens and underscores do not matter.

    Raises:
        BadRow: it is none of those allowed.
    """
    same = {_plain(name): name for name in allowed}
    if _plain(value) not in same:
        raise BadRow(f"unknown {what}", f"{what} {value!r} is unknown; allowed: {', '.join(allowed)}; correct it.")
    return same[_plain(value)]


def brief(value: Any) -> str:
    """Return the start of a value, for an error."""
    return json.dumps(value, default=str)[:80]


def _whole(value: str, key: str) -> str:
    """Return a text that can be written as UTF-8: JSON can name one half of a character beyond 16 bits."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow("broken text", f"{key!r} holds half a character, got {brief(value)}; correct it.") from None
    return value


def _plain(value: str) -> str:
    return "".join(character for character in value.lower() if character not in " _-")
