"""Where a dataset's pictures, clips and videos lie: found by their names, whatever their extension.

A picture or a clip that was extracted is preferred; where there is none, the video stands for both. Folders are listed
once. Nothing is decoded here.
"""

from __future__ import annotations

import os
from pathlib import Path

from supervised.data.importers.rows import BadRow

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff")
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
KNOWN = frozenset(PICTURES + SOUNDS + VIDEOS)
PICTURE_FOLDERS = ("frames", "images", "pictures", ".")
SOUND_FOLDERS = ("audio", "clips", "waveforms", ".")
VIDEO_FOLDERS = ("videos", "video", ".")
REMEDY = "get it, or leave such rows out with --on_error skip."


class Media:
    """The media under one folder.

    Args:
        root: the folder.
        pictures: its sub-folders with pictures, the preferred ones first; so `sounds` and `videos`.
        sounds: see `pictures`.
        videos: see `pictures`.
    """

    def __init__(
        self,
        root: Path,
        pictures: tuple[str, ...] = PICTURE_FOLDERS,
        sounds: tuple[str, ...] = SOUND_FOLDERS,
        videos: tuple[str, ...] = VIDEO_FOLDERS,
    ) -> None:
        self.root = root
        self._places = {
            "picture": (pictures, PICTURES),
            "sound": (sounds, SOUNDS),
            "video": (videos, VIDEOS),
        }
        self._listed: dict[str, frozenset[str]] = {}

    def picture(self, *names: str) -> Path:
        """Return the picture, or the video, that goes by one of these names; an extension in a name does not matter.

        Raises:
            BadRow: there is none, or it is empty.
        """
        return self._one("picture", names)

    def sound(self, *names: str) -> Path:
        """Return the clip, or the video, that goes by one of these names; an extension in a name does not matter.

        Raises:
            BadRow: there is none, or it is empty.
        """
        return self._one("sound", names)

    def picture_if_any(self, *names: str) -> Path | None:
        """Return the picture or the video, or None; for datasets whose questions are about the sound alone."""
        return self._find("picture", names) or self._find("video", names)

    def _one(self, kind: str, names: tuple[str, ...]) -> Path:
        found = self._find(kind, names) or self._find("video", names)
        if found is None:
            looked = [f"{folder}/" for each in (kind, "video") for folder in self._places[each][0] if folder != "."]
            raise BadRow(
                f"{kind} missing",
                f"no {kind} or video {names[0]!r} under {self.root}; looked in it and in "
                f"{', '.join(dict.fromkeys(looked))}; {REMEDY}",
            )
        if found.stat().st_size == 0:
            raise BadRow(f"{kind} empty", f"{kind} {found} is empty (0 bytes); {REMEDY}")
        return found

    def _find(self, kind: str, names: tuple[str, ...]) -> Path | None:
        for name in names:
            if name.startswith("/") or ".." in name.split("/"):
                raise BadRow("bad name", f"{kind} name {name!r} leads out of {self.root}; correct it.")
        folders, extensions = self._places[kind]
        split = [_parts(name, extensions) for name in names]
        for folder in folders:
            for parent, files in split:
                listed = self._files(folder, parent)
                for file in files if listed else ():
                    if file in listed:
                        return self.root / folder / parent / file
        return None

    def _files(self, folder: str, parent: str) -> frozenset[str]:
        """Return the names in a folder; none where it does not exist."""
        place = f"{folder}/{parent}"  # a text: millions of paths would take longer than all the rest
        if place not in self._listed:
            try:
                with os.scandir(self.root / folder / parent) as listing:
                    self._listed[place] = frozenset(entry.name for entry in listing if entry.is_file())
            except (OSError, ValueError):  # no such folder, or a name that no file system accepts
                self._listed[place] = frozenset()
        return self._listed[place]


def _parts(name: str, extensions: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the folder that a name begins with, and the file names it may stand for, its own first."""
    parent, _, last = name.rpartition("/")
    stem, dot, extension = last.rpartition(".")
    own = f".{extension}"
    if not dot or own.lower() not in KNOWN:
        return parent, [last + suffix for suffix in extensions]
    first = (own,) if own.lower() in extensions else ()
    return parent, [stem + suffix for suffix in first + extensions]
