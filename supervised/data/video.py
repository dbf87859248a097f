"""Frames and sound of a video file: pictures from the middles of equal parts, and the whole audio track.

In: an MP4, MOV, MKV, WebM or AVI file, by its name. Out: RGB pictures, or samples. Decoded by PyAV (the extra `video`);
the libraries of FFmpeg come with it. Size and length are read from the header before anything is decoded, and every
packet is walked once, so that a file that ends too early is told from a short one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supervised.data import limits
from supervised.data.limits import check_clip, check_ends, check_file, check_size, one_line
from supervised.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
MAX_FRAMES = 3
_OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi", "protocol_whitelist": "file"}
"""Play lists and other forms that name further files or addresses are never followed."""


def is_video(source: object) -> bool:
    """Return whether a path names a video file."""
    return isinstance(source, Path | str) and Path(source).suffix.lower() in SUFFIXES


def read_frames(path: Path, count: int) -> list[Image]:
    """Return `count` (1 to 3) frames in RGB, upright: those shown in the middles of as many equal parts.

    Raises:
        DataError: missing, damaged, truncated, without frames, too long or too large.
        ConfigError: PyAV is not installed.
    """
    with _opened(path, "video") as video:
        stream = video.stream
        check_size(video.name, stream.codec_context.width, stream.codec_context.height)
        return [_frame_at(video, (2 * i + 1) * video.seconds / (2 * count)) for i in range(count)]


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Return the whole audio track, float32 [n, C], and its rate.

    Raises:
        DataError: missing, damaged, truncated, without an audio track, too long, or too many channels.
        ConfigError: PyAV is not installed.
    """
    with _opened(path, "audio") as video:
        context = video.stream.codec_context
        check_clip(video.name, max(1, int(video.seconds * context.sample_rate)), context.channels, context.sample_rate)
        from av import AudioResampler

        rate: int = context.sample_rate
        as_float = AudioResampler(format="fltp")  # planar floats; rate and channels stay
        parts, length = [], 0
        for frame in video.container.decode(video.stream):
            for part in as_float.resample(frame):
                parts.append(part.to_ndarray())  # [C, m]
                length += parts[-1].shape[1]
            check_clip(video.name, max(1, length), context.channels, rate)  # a header may lie about the length
        if not parts:
            raise DataError(f'{video.name} has an audio track without sound; replace it, or write "audio": null.')
        return np.concatenate(parts, axis=1).T, rate


@dataclass(frozen=True)
class _Video:
    """An open file and one of its streams."""

    name: str
    container: Any
    stream: Any
    start: float
    """Time of the stream's first packet, in seconds."""
    seconds: float
    """Length of the stream."""


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[_Video]:
    """Open a file for its first stream of a kind, checked; whatever PyAV reports becomes a `DataError`."""
    name = f"video {path}"
    check_file(path, name)
    try:
        import av
    except ModuleNotFoundError:
        raise ConfigError(
            f"{name} needs PyAV, which is not installed; pip install 'safe-rl-audio[video]', or extract pictures and "
            "clips."
        ) from None
    try:
        with av.open(f"file:{path}", options=_OPTIONS, metadata_errors="replace") as container:
            streams = container.streams.video if kind == "video" else container.streams.audio
            if not streams:
                lacking = "no frames" if kind == "video" else "no audio track"
                field = "image" if kind == "video" else "audio"
                raise DataError(f'{name} has {lacking}; replace it, or write "{field}": null.')
            if streams[0].codec_context is None:
                raise DataError(f"{name} is in a form that cannot be decoded; convert it, to H.264 and AAC, say.")
            yield _Video(name, container, streams[0], *_walk(name, container, streams[0]))
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name} cannot be decoded ({one_line(error)}); allowed: whole files in MP4, MOV, MKV, WebM or AVI; "
            "replace it or leave it out."
        ) from None


def _walk(name: str, container: Any, stream: Any) -> tuple[float, float]:
    """Return where a stream begins and how long it is, in seconds, from its packets; nothing is decoded.

    Raises:
        DataError: too long, of no length, or ending before its header says.
    """
    promised = 0.0 if container.duration is None else container.duration / 1e6
    _check_length(name, promised)
    begin, end, pictures = (container.start_time or 0) / 1e6, -np.inf, 0
    first, last = np.inf, -np.inf
    for packet in container.demux():
        if packet.pts is None:
            continue  # the packet that flushes, or one without a time
        start = float(packet.pts * packet.time_base)
        stop = start + float((packet.duration or 0) * packet.time_base)
        end, pictures = max(end, stop), pictures + (packet.stream.type == "video")
        if packet.stream_index == stream.index:
            first, last = min(first, start), max(last, stop)
    there = max(0.0, end - begin)
    for each in container.streams.video[:1]:  # an AVI file's length is reckoned from its size; its frames are told
        if each.frames and each.average_rate:
            promised = max(promised, there + float((each.frames - pictures) / each.average_rate))
    check_ends(name, there, promised)
    if last <= first:
        raise DataError(f"{name} has a length of zero; replace it or leave it out.")
    _check_length(name, last - first)
    container.seek(0)
    return float(first), float(last - first)


def _check_length(name: str, seconds: float) -> None:
    if seconds > limits.MAX_SECONDS:
        raise DataError(f"{name} lasts {seconds:.0f} s; allowed: up to {limits.MAX_SECONDS:.0f} s; cut it into clips.")


def _frame_at(video: _Video, seconds: float) -> Image:
    """Return the frame that is shown so many seconds after the stream's beginning."""
    stream, shown = video.stream, None
    wanted = video.start + seconds
    video.container.seek(int(wanted / stream.time_base), stream=stream, backward=True)
    for frame in video.container.decode(stream):
        if frame.time is not None and frame.time > wanted and shown is not None:
            break
        shown = frame
    if shown is None:
        raise DataError(f"{video.name} has no frame at {seconds:.1f} s; replace it or leave it out.")
    check_size(video.name, shown.width, shown.height)
    image: Image = shown.to_image()
    return image.rotate(shown.rotation, expand=True) if shown.rotation else image
