"""What a folder was made from: the part of the configuration that matters to it, and hashes of what it was built on.

`made_from.json` lies beside the artefact. A command that finds the same origin goes on, or takes what is finished; one
that finds another origin refuses, so that no adapter, table or policy is ever mixed with a stranger's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervised.differences import differences
from supervised.errors import SafeError
from supervised.files import sha256_file, write_json

FILE = "made_from.json"
REMEDY = "give another --run_dir"


@dataclass
class Artefact:
    """A folder, its origin and, once it is whole, the facts about it."""

    folder: Path
    made_from: dict[str, Any]
    finished: dict[str, Any] | None

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Note that the folder is whole; `facts` are its hashes and figures."""
        self.finished = dict(facts)
        self._write()

    def _write(self) -> None:
        write_json(self.folder / FILE, {"made_from": self.made_from, "finished": self.finished})


def claim(
    folder: Path,
    made_from: Mapping[str, Any],
    error: type[SafeError],
    *,
    may_grow: tuple[str, ...] = (),
    resume: bool = False,
    remedy: str = REMEDY,
) -> Artefact:
    """Open `folder` for an artefact of this origin; create it if nothing is there.

    Args:
        folder: where the artefact lies, or will lie.
        made_from: plain JSON values; nested dictionaries are compared key by key.
        error: the kind of error that a stranger's folder raises.
        may_grow: keys whose value may become larger when a run is resumed.
        resume: whether the user asked to go on with what is there.
        remedy: what a user whose folder is refused can do.

    Raises:
        SafeError: of the kind `error`; the folder holds something of another, or of unknown, origin.
    """
    origin = json.loads(json.dumps(made_from))  # as it will read after the file: tuples are lists
    before = _read(folder, error)
    if before is not None and not refuse_stranger(
        folder, made_from, error, may_grow=may_grow, resume=resume, remedy=remedy
    ):
        return before
    artefact = Artefact(folder, origin, None)
    artefact._write()
    return artefact


def refuse_stranger(
    folder: Path,
    made_from: Mapping[str, Any],
    error: type[SafeError],
    *,
    may_grow: tuple[str, ...] = (),
    resume: bool = False,
    remedy: str = REMEDY,
) -> bool:
    """Check the keys of `made_from` that are known so far against what lies in `folder`; nothing is written.

    Returns:
        Whether the origin changes and may: a key grows that may, or the folder holds nothing but its origin.

    Raises:
        SafeError: of the kind `error`; the folder holds something of another, or of unknown, origin.
    """
    before = _read(folder, error)
    if before is None:
        return False
    changes = list(
        differences({key: before.made_from.get(key) for key in made_from}, json.loads(json.dumps(made_from)))
    )
    if not changes:
        return False
    if before.finished is None and not any(item.name != FILE and item.name[0] != "." for item in folder.iterdir()):
        return True  # the command that claimed it made nothing, perhaps because its configuration was wrong
    growing = all(key in may_grow and _is_larger(there, here) for key, there, here in changes)
    if growing and resume:
        return True
    told = ", ".join(f"{key} {_short(there)} there, {_short(here)} here" for key, there, here in changes[:3])
    told += f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    remedy = "--resume continues it, another --run_dir starts afresh" if growing else remedy
    raise error(f"{folder} was made with another configuration ({told}); {remedy}.")


def _read(folder: Path, error: type[SafeError]) -> Artefact | None:
    """Return what lies in `folder`; None: nothing yet."""
    path = folder / FILE
    if not path.exists():
        if folder.is_dir() and any(not item.name.startswith(".") for item in folder.iterdir()):
            raise error(f"{folder} holds files of unknown origin; move them away or give another --run_dir.")
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Artefact(folder, dict(stored["made_from"]), stored["finished"])
    except (ValueError, KeyError, TypeError) as cause:
        raise error(f"{path} cannot be read as an origin; delete {folder} or give another --run_dir.") from cause


def folder_sha256(folder: Path) -> str:
    """Return one SHA-256 over the names and bytes of all files below `folder`, except texts for people (.md)."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def listing_sha256(folder: Path) -> str:
    """Return one SHA-256 over the names and sizes of all files below `folder`, for folders too large to read."""
    lines = sorted(
        f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n" for path in folder.rglob("*") if path.is_file()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_larger(there: Any, here: Any) -> bool:
    return isinstance(there, int | float) and isinstance(here, int | float) and here > there


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + ' ..."'
