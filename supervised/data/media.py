"""Clips and pictures, from files or from memory, as the models take them: mono float32 sound, RGB pictures.

Sound is decoded with soundfile and resampled once with soxr; pictures are decoded with Pillow. A video file stands for
its sound where a clip is asked for, and for its middle frame where a picture is. Headers are read before contents, so
that an absurd file is refused before it fills the memory. What cannot be used is a `DataError` of one line; nothing is
silently replaced.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from supervised.data.limits import MAX_PIXELS, check_clip, check_ends, check_file, check_size, one_line
from supervised.data.sample import Sample, Waveform
from supervised.data.video import is_video, read_frames, read_sound
from supervised.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
"""Decoders report damage in all of these ways."""
ENDLESS = 0x7FFF0000
"""Bytes that a WAV file declares, or more, whose writer did not know its length beforehand."""


def read_waveform(source: Path | Waveform, rate: int) -> Waveform:
    """Return the clip as mono float32 [n] at `rate`; channels are averaged, other rates are resampled.

    A clip in memory that already has the rate is returned as it is. A *file* that holds nothing but zeros is refused:
    its manifest promised sound. In memory silence is allowed, because a generator may mean it.

    Raises:
        DataError: missing, unreadable, truncated, empty, silent, too long, too many channels, NaN or infinity, or a
            wrong rate; of a video: without sound.
        ConfigError: a video, and PyAV is not installed.
    """
    clip = read_clip(source)
    if clip.rate == rate:
        return clip
    import soxr

    resampled = np.asarray(soxr.resample(clip.samples, clip.rate, rate), dtype=np.float32)  # [n * rate / own rate]
    if not len(resampled):
        raise DataError(
            f"{_name_of(source)} has {len(clip.samples)} samples at {clip.rate} Hz, too few for {rate} Hz; leave it "
            "out."
        )
    return Waveform(resampled, rate)


def read_clip(source: Path | Waveform) -> Waveform:
    """Return the clip as mono float32 [n] at its own rate; errors are those of `read_waveform`."""
    given: object = source
    if not isinstance(given, (str, Path, Waveform)):
        raise DataError(
            f"a clip must be the path of a file or a Waveform, got {type(given).__name__}; "
            "give samples in memory as Waveform(samples, rate)."
        )
    name = _name_of(source)
    if isinstance(source, Waveform):
        clip, samples = source, np.asarray(source.samples)
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise DataError(
                f"{name}: samples must be float32 of shape [n], got {samples.dtype} {list(samples.shape)}; "
                "average the channels and convert."
            )
        check_clip(name, len(samples), 1, clip.rate)
    else:
        clip = Waveform(*_decode(Path(source), name))
    if not np.isfinite(clip.samples).all():
        raise DataError(f"{name} holds NaN or infinite samples; decode it again, or leave it out.")
    return clip


def read_image(source: Path | Image) -> Image:
    """Return the picture in RGB, turned as its EXIF orientation says; a picture in memory passes through.

    Raises:
        DataError: missing, not JPEG, PNG, WEBP or a video, truncated, damaged, or more pixels than `MAX_PIXELS`.
        ConfigError: a video, and PyAV is not installed.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _to_rgb(source, "picture in memory")
    if is_video(source):
        return read_frames(Path(source), 1)[0]
    name = f"picture {source}"
    check_file(Path(source), name)
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

    check_size(name, *image.size)
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
        f"{name} cannot be decoded ({one_line(error)}); "
        f"allowed: whole files in {', '.join(IMAGE_FORMATS)}; replace it or leave it out."
    )


def _decode(path: Path, name: str) -> tuple[np.ndarray, int]:
    """Return the file's channels averaged, float32 [n], and its rate."""
    if is_video(path):
        channels, rate = read_sound(path)  # [n, C]
        return _mono(channels, name), rate
    import soundfile

    check_file(path, name)
    try:
        header = soundfile.info(str(path))
        check_clip(name, header.frames, header.channels, header.samplerate)
        _check_whole(name, header.extra_info)
        channels, rate = soundfile.read(str(path), frames=header.frames, dtype="float32", always_2d=True)  # [n, C]
        if len(channels):  # else it is empty, which the mixing says
            check_ends(name, len(channels) / rate, header.frames / rate)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name} cannot be decoded ({one_line(error)}); allowed: WAV, FLAC, OGG, MP3, AIFF; "
            "convert it or leave it out."
        ) from None
    return _mono(channels, name), rate


def _check_whole(name: str, told: str) -> None:
    """Refuse a WAV or AIFF file that holds less than it declares: libsndfile reads what is there, and notes it."""
    if found := re.search(r"^ *(?:data|SSND) *: (\d+) \(should be (\d+)\)", told, re.MULTILINE):
        declared, there = map(int, found.groups())
        if there < declared < ENDLESS:
            raise DataError(
                f"{name} is truncated: {there:,} of {declared:,} bytes of sound are there; copy it again or leave it "
                "out."
            )


def _mono(channels: np.ndarray, name: str) -> np.ndarray:
    """Return the mean of the channels, float32 [n] from [n, C]; a file promises sound, so silence is refused."""
    if not len(channels):
        raise DataError(f"{name} is empty; allowed: at least one sample; replace it or leave it out.")
    if not channels.any():
        raise DataError(f'{name} is silent (only zeros); replace it, or write "audio": null.')
    return channels.mean(axis=1, dtype=np.float64).astype(np.float32)  # float64: no overflow in the sum


def _name_of(source: Path | Waveform) -> str:
    return "clip in memory" if isinstance(source, Waveform) else f"clip {source}"
