"""The preview against signals whose properties are known."""

from __future__ import annotations

import numpy as np
import pytest

from envs.preview import mel_preview, preview_width
from supervised.data.sample import Waveform

BANDS = 16
LOUDNESS, FLATNESS, CROSSINGS, SECONDS = range(2 * BANDS, 2 * BANDS + 4)


def tone(hertz: float, rate: int = 16_000, seconds: float = 2.0) -> Waveform:
    return Waveform(np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32), rate)


def test_a_tone_is_loud_in_its_band_not_flat_and_crosses_zero_twice_a_period() -> None:
    values = mel_preview(tone(1000), BANDS)
    assert values.shape == (preview_width(BANDS),)
    assert values[LOUDNESS] == pytest.approx(np.log10(0.5), abs=1e-3)  # a sine of amplitude 1 has power 1/2
    assert values[FLATNESS] < 0.01
    assert values[CROSSINGS] == pytest.approx(2000 / 16_000, abs=2e-3)
    assert values[SECONDS] == 2.0
    # 1000 Hz is 1000 mel; the bands' centres lie at equal steps between 78 mel (50 Hz) and 2840 mel (8000 Hz).
    assert int(values[:BANDS].argmax()) == round((1000 - 78) / ((2840 - 78) / 17)) - 1


def test_a_higher_tone_lies_in_a_higher_band() -> None:
    peaks = [int(mel_preview(tone(hertz), BANDS)[:BANDS].argmax()) for hertz in (150, 500, 1500, 4000)]
    assert peaks == sorted(set(peaks))


def test_white_noise_is_flat() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    values = mel_preview(Waveform(noise, 48_000), BANDS)
    assert values[FLATNESS] > 0.9
    assert values[CROSSINGS] == pytest.approx(0.5, abs=0.02)
    assert values[SECONDS] == 1.0


def test_only_the_first_second_is_heard_and_the_length_is_that_of_the_clip() -> None:
    quiet_first = np.concatenate([np.zeros(16_000), np.ones(16_000)]).astype(np.float32)
    values = mel_preview(Waveform(quiet_first, 16_000), BANDS)
    assert values[LOUDNESS] == pytest.approx(-10)
    assert values[SECONDS] == 2.0


@pytest.mark.parametrize("length", [1, 7, 511, 512, 513])
def test_clips_shorter_than_a_frame_are_finite(length: int) -> None:
    assert np.isfinite(mel_preview(Waveform(np.ones(length, np.float32), 16_000), BANDS)).all()


def test_no_clip_reads_as_silence_of_no_length() -> None:
    nothing, silence = mel_preview(None, BANDS), mel_preview(Waveform(np.zeros(16_000, np.float32), 16_000), BANDS)
    np.testing.assert_allclose(nothing[:SECONDS], silence[:SECONDS])
    assert (nothing[SECONDS], silence[SECONDS]) == (0, 1)


@pytest.mark.parametrize(("rate", "bands"), [(8_000, 64), (16_000, 1), (48_000, 32), (1_000, 16)])
def test_every_band_hears_something_at_any_rate(rate: int, bands: int) -> None:
    noise = np.random.default_rng(1).normal(0, 1, rate).astype(np.float32)
    values = mel_preview(Waveform(noise, rate), bands)
    assert np.all(values[:bands] > -5)
