"""Clips and pictures, from files or from memory, as the models take them: mono float32 sound, RGB pictures.

Sound is decoded with soundfile and resampled once with soxr; pictures are decoded with Pillow. Headers are read
before contents, so that an absurd file is refused before it fills the memory. What cannot be used is a `DataError`
of one line; nothing is silently replaced.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SECONDS = 600.0
"""Longest clip that is read; longer recordings are cut into clips by whoever prepares the data."""
MAX_CHANNELS = 16
RATES = (1_000, 384_000)
"""Lowest and highest sampling rate that is read, in Hz."""
MAX_PIXELS = 64_000_000
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
"""Decoders report damage in all of these ways."""


def read_waveform(source: Path | Waveform, rate: int) -> Waveform:
    """Return the clip as mono float32 [n] at `rate`; channels are averaged, other rates are resampled.

    A clip in memory that already has the rate is returned as it is. A *file* that holds nothing but zeros is refused:
    its manifest promised sound. In memory silence is allowed, because a generator may mean it.

    Raises:
        DataError: missing, unreadable, empty, silent, too long, too many channels, NaN or infinity, or a wrong rate.
    """
    if isinstance(source, Waveform):
        name, original = "clip in memory", source.rate
        samples = np.asarray(source.samples)
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise DataError(
                f"{name}: samples must be float32 of shape [n], got {samples.dtype} {list(samples.shape)}; "
                "average the channels and convert."
            )
        _check_header(name, len(samples), 1, original)
    else:
        name = f"clip {source}"
        samples, original = _decode(Path(source), name)
    if not np.isfinite(samples).all():
        raise DataError(f"{name} holds NaN or infinite samples; decode it again, or leave it out.")
    if original == rate:
        return source if isinstance(source, Waveform) else Waveform(samples, rate)
    import soxr

    resampled = np.asarray(soxr.resample(samples, original, rate), dtype=np.float32)  # [n * rate / original]
    if not len(resampled):
        raise DataError(f"{name} has {len(samples)} samples at {original} Hz, too few for {rate} Hz; leave it out.")
    return Waveform(resampled, rate)


def read_image(source: Path | Image) -> Image:
    """Return the picture in RGB, turned as its EXIF orientation says; a picture in memory passes through.

    Raises:
        DataError: missing, not JPEG, PNG or WEBP, truncated, damaged, or more pixels than `MAX_PIXELS`.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _to_rgb(source, "picture in memory")
    name = f"picture {source}"
    _check_file(Path(source), name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=IMAGE_FORMATS)
        with image:
            return _to_rgb(image, name)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{name} has more than {MAX_PIXELS:,} pixels; resize it or leave it out.") from None
    except IMAGE_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise _undecodable(name, error) from None


def check_media(sample: Sample, rate: int) -> None:
    """Read the sample's picture and clip once and let go of them.

    Raises:
        DataError: one of them cannot be used; the message starts with the sample's id.
    """
    try:
        if sample.image is not None:
            read_image(sample.image)
        if sample.audio is not None:
            read_waveform(sample.audio, rate)
    except DataError as error:
        raise DataError(f"sample {sample.id!r}: {error}") from None


def _to_rgb(image: Image, name: str) -> Image:
    """Return the picture decoded, upright and in RGB."""
    from PIL import Image as pillow
    from PIL import ImageOps

    width, height = image.size
    if not 1 <= width * height <= MAX_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels; allowed: 1 to {MAX_PIXELS:,} in all; resize it.")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)  # a copy where there is nothing to turn
        if upright.mode.startswith("I;16"):  # convert() would clip 16-bit grey at 255
            upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return upright.convert("RGB")
    except IMAGE_ERRORS as error:
        raise _undecodable(name, error) from None


def _undecodable(name: str, error: Exception) -> DataError:
    """Return the error for a damaged picture; the decoder's reason stays readable in it."""
    return DataError(
        f"{name} cannot be decoded ({_one_line(error)}); "
        f"allowed: whole files in {', '.join(IMAGE_FORMATS)}; replace it or leave it out."
    )


def _decode(path: Path, name: str) -> tuple[np.ndarray, int]:
    """Return the file's channels averaged, float32 [n], and its rate."""
    import soundfile

    _check_file(path, name)
    try:
        header = soundfile.info(str(path))
        _check_header(name, header.frames, header.channels, header.samplerate)
        channels, rate = soundfile.read(str(path), frames=header.frames, dtype="float32", always_2d=True)  # [n, C]
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name} cannot be decoded ({_one_line(error)}); allowed: WAV, FLAC, OGG, MP3, AIFF; "
            "convert it or leave it out."
        ) from None
    if not len(channels):
        raise DataError(f"{name} is empty; allowed: at least one sample; replace it or leave it out.")
    if not channels.any():
        raise DataError(f'{name} is silent (only zeros); replace it, or write "audio": null.')
    return channels.mean(axis=1, dtype=np.float64).astype(np.float32), rate  # [n]; float64: no overflow in the sum


def _check_file(path: Path, name: str) -> None:
    """Refuse what is not an ordinary, non-empty file."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{name} {what}; correct the path or leave the sample out.")
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty (0 bytes); copy it again or leave it out.")


def _check_header(name: str, frames: int, channels: int, rate: int) -> None:
    """Refuse impossible rates, too many channels, no samples and too many of them."""
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{name} has a rate of {rate} Hz; allowed: {RATES[0]} to {RATES[1]}; convert it.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise DataError(f"{name} has {channels} channels; allowed: 1 to {MAX_CHANNELS}; mix it down.")
    if frames < 1:
        raise DataError(f"{name} is empty; allowed: at least one sample; replace it or leave it out.")
    if frames > MAX_SECONDS * rate:
        raise DataError(f"{name} lasts {frames / rate:.0f} s; allowed: up to {MAX_SECONDS:.0f} s; cut it into clips.")


def _one_line(error: Exception) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
