"""What a glance at the first second of a clip tells: NumPy only, well under a millisecond.

In: mono sound. Out: log-mel mean and spread per band, loudness, spectral flatness, zero-crossing rate, clip length.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from supervised.data.sample import Waveform

_FLOOR = 1e-10
"""Power of silence: -100 dB."""
_EXTRAS = 4


def preview_width(bands: int) -> int:
    """Return the number of values of a preview."""
    return 2 * bands + _EXTRAS


def mel_preview(clip: Waveform | None, bands: int) -> np.ndarray:
    """Return the preview of a clip, float32 [2 * bands + 4]; no clip reads as silence of no length.

    The values: log10 mel power, mean over the frames [bands] and its spread [bands], loudness (log10 of the mean
    power), flatness (geometric over arithmetic mean of the spectrum, 1 for white noise), zero crossings per sample,
    length of the whole clip in seconds.
    """
    rate = clip.rate if clip is not None else 16_000
    size = 1 << (max(rate // 32, 32) - 1).bit_length()  # frames of about 1/32 s, a power of two
    first = np.zeros(size, dtype=np.float32) if clip is None else clip.samples[:rate]
    if len(first) < size:
        first = np.pad(first, (0, size - len(first)))
    frames = first[: len(first) // size * size].reshape(-1, size)  # [F, size]
    power = np.square(np.abs(np.fft.rfft(frames * _window(size), axis=1))) / size  # [F, size / 2 + 1]
    mel = np.log10(power @ _filters(rate, size, bands) + _FLOOR)  # [F, bands]
    spectrum = power.mean(axis=0) + _FLOOR
    flatness = np.exp(np.log(spectrum).mean()) / spectrum.mean()
    negative = np.signbit(first)
    extras = (
        np.log10(np.square(first, dtype=np.float64).mean() + _FLOOR),
        flatness,
        np.count_nonzero(negative[1:] != negative[:-1]) / len(first),
        clip.seconds if clip is not None else 0.0,
    )
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0), extras]).astype(np.float32)


@lru_cache(maxsize=8)
def _window(size: int) -> np.ndarray:
    return np.hanning(size + 1)[:-1].astype(np.float32)


@lru_cache(maxsize=8)
def _filters(rate: int, size: int, bands: int) -> np.ndarray:
    """Return triangular mel filters, float64 [size / 2 + 1, bands], each of sum 1 (HTK scale, from 50 Hz)."""
    edges = np.linspace(_mel(50.0), _mel(rate / 2), bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.fft.rfftfreq(size, 1 / rate)[:, None]  # [size / 2 + 1, 1]
    rising = (bins - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    falling = (hertz[2:] - bins) / (hertz[2:] - hertz[1:-1])
    filters = np.maximum(np.minimum(rising, falling), 0.0)
    # A low band may be narrower than a bin: it then takes the bin nearest to its centre.
    for band in np.flatnonzero(filters.sum(axis=0) == 0):
        filters[np.abs(bins[:, 0] - hertz[band + 1]).argmin(), band] = 1.0
    return np.asarray(filters / filters.sum(axis=0))


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
