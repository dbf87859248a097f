"""Clips normalised and augmented, frames put side by side: samples in, samples with their media in memory out.

Encoders resample and cut to their own length (CLAP: 48 kHz and 10 s, Whisper: 16 kHz), so that nothing here does.
What augmentation draws depends on its seed, the epoch and the question's id and on nothing else: a run that goes on
hears what it would have heard anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from supervised.config import PreprocessConfig
from supervised.data.media import read_clip
from supervised.data.sample import Sample, Waveform
from supervised.data.video import is_video, read_frames
from supervised.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SNR_RANGE = 20.0
"""Noise is drawn from the given signal-to-noise ratio up to this much above it, in dB."""


class PreprocessedSamples(Sequence[Sample]):
    """Samples whose media are read and preprocessed when they are asked for.

    Args:
        samples: Any samples.
        config: What to do.
        augment: Change clips at random; for questions that are learned from.
        epoch: Another epoch augments otherwise; see `at_epoch`.
    """

    def __init__(self, samples: Sequence[Sample], config: PreprocessConfig, augment: bool, epoch: int = 0) -> None:
        self.samples, self.config, self.augment, self.epoch = samples, config, augment and config.augments, epoch
        self._last: tuple[Path | Waveform, Waveform] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> PreprocessedSamples: ...

    def __getitem__(self, index: int | slice) -> Sample | PreprocessedSamples:
        """Return a sample, or the part that a slice tells.

        Raises:
            DataError: a picture or a clip cannot be used; the message names the sample.
        """
        if isinstance(index, slice):
            return PreprocessedSamples(self.samples[index], self.config, self.augment, self.epoch)
        return self._prepared(self.samples[index])

    def at_epoch(self, epoch: int) -> PreprocessedSamples:
        """Return the same samples as another epoch augments them."""
        return PreprocessedSamples(self.samples, self.config, self.augment, epoch)

    def _prepared(self, sample: Sample) -> Sample:
        config, image, audio = self.config, sample.image, sample.audio
        try:
            if config.frames > 1 and image is not None and is_video(image):
                image = side_by_side(read_frames(image, config.frames))  # type: ignore[arg-type]
            if audio is not None and (config.peak or config.silence or self.augment):
                audio = self._read(audio)
                if self.augment:
                    audio = augmented(audio, config, self.epoch, sample.id)
        except DataError as error:
            raise DataError(f"sample {sample.id!r}: {error}") from None
        return replace(sample, image=image, audio=audio)

    def _read(self, source: Path | Waveform) -> Waveform:
        """Return the clip, normalised; neighbouring questions about one clip get one object, which is encoded once."""
        last = self._last
        if last is not None and (last[0] is source or (isinstance(source, Path) and last[0] == source)):
            return last[1]
        clip = read_clip(source)
        clip = silenced(clip) if self.config.silence else clip
        clip = peak_normalised(clip) if self.config.peak else clip
        self._last = source, clip
        return clip


def preprocessed(samples: Sequence[Sample], config: PreprocessConfig, augment: bool) -> Sequence[Sample]:
    """Return the samples as the configuration wants them: themselves, where it wants nothing."""
    if config.frames == 1 and not config.peak and not config.silence and not (augment and config.augments):
        return samples
    return PreprocessedSamples(samples, config, augment)


def silenced(clip: Waveform) -> Waveform:
    """Return silence of the clip's length."""
    return Waveform(np.zeros_like(clip.samples), clip.rate)


def peak_normalised(clip: Waveform) -> Waveform:
    """Return the clip scaled so that its largest absolute sample is 1; silence stays silence."""
    peak = np.abs(clip.samples).max(initial=0.0)
    return clip if peak == 0 else Waveform((clip.samples / peak).astype(np.float32), clip.rate)


def augmented(clip: Waveform, config: PreprocessConfig, epoch: int, sample_id: str) -> Waveform:
    """Return the clip rotated, partly silenced, louder or softer, and noisy, as far as each is switched on.

    The mask is SpecAugment's time mask (arXiv:1904.08779) on the waveform; its masks over frequency belong to an
    encoder's spectrogram. Every draw is made in any case, so that switching one on does not change the others.
    """
    draws = _generator(config.seed, epoch, sample_id)
    shift, start, length, gain, snr = draws.random(5)
    samples, count = clip.samples, len(clip.samples)
    if config.shift_seconds > 0:
        samples = np.roll(samples, round((2 * shift - 1) * config.shift_seconds * clip.rate))
    if config.mask_seconds > 0:
        masked = int(length * min(config.mask_seconds * clip.rate, count / 2))
        first = int(start * (count - masked + 1))
        samples = samples.copy()
        samples[first : first + masked] = 0.0
    if config.gain_db > 0:
        samples = samples * np.float32(10 ** ((2 * gain - 1) * config.gain_db / 20))
    if config.noise_snr_db is not None:
        loudness = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))  # root mean square of what is there
        level = loudness * 10 ** (-(config.noise_snr_db + SNR_RANGE * snr) / 20)
        samples = samples + (level * draws.standard_normal(count)).astype(np.float32)
    return Waveform(samples.astype(np.float32), clip.rate)


def side_by_side(frames: Sequence[Image]) -> Image:
    """Return the pictures, of one size, from left to right in one."""
    from PIL import Image as pillow

    width, height = frames[0].size
    strip = pillow.new("RGB", (width * len(frames), height))
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * width, 0))
    return strip


def _generator(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {epoch} {sample_id}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest))
