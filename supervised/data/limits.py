"""How large a clip, a picture or a video may be, and the checks of files and headers before anything is decoded."""

from __future__ import annotations

from pathlib import Path

from supervised.errors import DataError

MAX_SECONDS = 600.0
"""Longest clip that is read; longer recordings are cut into clips by whoever prepares the data."""
MAX_CHANNELS = 16
RATES = (1_000, 384_000)
"""Lowest and highest sampling rate that is read, in Hz."""
MAX_PIXELS = 64_000_000
TOLERANCE = 0.5
"""Seconds that a file may end before its header says: containers round, and tracks differ in length."""


def check_file(path: Path, name: str) -> None:
    """Refuse what is not an ordinary, non-empty file."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{name} {what}; correct the path or leave the sample out.")
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty (0 bytes); copy it again or leave it out.")


def check_clip(name: str, frames: int, channels: int, rate: int) -> None:
    """Refuse impossible rates, too many channels, no samples and too many of them."""
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{name} has a rate of {rate} Hz; allowed: {RATES[0]} to {RATES[1]}; convert it.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise DataError(f"{name} has {channels} channels; allowed: 1 to {MAX_CHANNELS}; mix it down.")
    if frames < 1:
        raise DataError(f"{name} is empty; allowed: at least one sample; replace it or leave it out.")
    if frames > MAX_SECONDS * rate:
        raise DataError(f"{name} lasts {frames / rate:.0f} s; allowed: up to {MAX_SECONDS:.0f} s; cut it into clips.")


def check_ends(name: str, there: float, promised: float) -> None:
    """Refuse a file that ends, in seconds, before its header says."""
    if there < promised - TOLERANCE:
        raise DataError(
            f"{name} is truncated: {there:.1f} s of {promised:.1f} s are there; copy it again or leave it out."
        )


def check_size(name: str, width: int, height: int) -> None:
    """Refuse a picture, or the frames of a video, without pixels or with too many."""
    if not 1 <= width * height <= MAX_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels; allowed: 1 to {MAX_PIXELS:,} in all; resize it.")


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
