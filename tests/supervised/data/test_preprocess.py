from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from supervised.config import DataConfig, PreprocessConfig
from supervised.data.preprocess import (
    PreprocessedSamples,
    augmented,
    peak_normalised,
    preprocessed,
    side_by_side,
)
from supervised.data.sample import Sample, Waveform
from supervised.data.source import open_split
from supervised.errors import ConfigError, DataError

RATE = 1_000
FLOAT32 = np.dtype(np.float32)
CLIP = Waveform(np.sin(np.arange(3_000) / 7).astype(np.float32) * np.float32(0.4), RATE)
ALL = PreprocessConfig(gain_db=6, noise_snr_db=20, shift_seconds=0.5, mask_seconds=0.5)


def sample(name: str = "q", audio: Waveform | Path | None = CLIP) -> Sample:
    return Sample(name, "?", ("a",), audio=audio)


def test_by_default_samples_pass_through_untouched() -> None:
    samples = [sample()]
    assert preprocessed(samples, PreprocessConfig(), augment=True) is samples
    assert preprocessed(samples, ALL, augment=False) is samples


def test_silence_has_the_length_of_the_clip_and_reaches_every_split() -> None:
    found = preprocessed([sample(audio=CLIP)], PreprocessConfig(silence=True, peak=True), augment=False)[0].audio
    assert isinstance(found, Waveform)
    assert (found.rate, found.samples.shape, found.samples.dtype) == (CLIP.rate, CLIP.samples.shape, FLOAT32)
    assert not found.samples.any()


def test_the_peak_becomes_one_and_silence_stays() -> None:
    found = peak_normalised(CLIP)
    assert (np.abs(found.samples).max(), found.samples.dtype, found.rate) == (1.0, FLOAT32, RATE)
    np.testing.assert_allclose(found.samples, CLIP.samples / np.abs(CLIP.samples).max(), rtol=1e-6)
    silence = Waveform(np.zeros(5, np.float32), RATE)
    assert peak_normalised(silence) is silence


def test_normalising_reads_the_file_at_its_own_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", CLIP.samples, RATE, subtype="FLOAT")
    (found,) = PreprocessedSamples([sample(audio=tmp_path / "a.wav")], PreprocessConfig(peak=True), augment=False)
    assert isinstance(found.audio, Waveform)
    assert (found.audio.rate, np.abs(found.audio.samples).max()) == (RATE, 1.0)


def test_neighbours_with_one_clip_get_one_object() -> None:
    samples = PreprocessedSamples([sample("a"), sample("b")], PreprocessConfig(peak=True), augment=False)
    assert samples[0].audio is samples[1].audio


def test_a_file_that_cannot_be_read_is_named_with_its_question(tmp_path: Path) -> None:
    samples = preprocessed([sample(audio=tmp_path / "none.wav")], PreprocessConfig(peak=True), augment=False)
    with pytest.raises(DataError, match=r"^sample 'q': clip .*none\.wav does not exist"):
        samples[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 50), st.text(max_size=8))
def test_augmentation_depends_on_seed_epoch_and_question_alone(seed: int, epoch: int, name: str) -> None:
    config = replace(ALL, seed=seed)
    first, again = (augmented(CLIP, config, epoch, name).samples for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in (
        augmented(CLIP, replace(config, seed=seed + 1), epoch, name),
        augmented(CLIP, config, epoch + 1, name),
        augmented(CLIP, config, epoch, name + "x"),
    ):
        assert not np.array_equal(first, other.samples)
    assert (first.shape, first.dtype) == (CLIP.samples.shape, FLOAT32)
    assert np.isfinite(first).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000))
def test_gain_stays_within_its_decibels(epoch: int) -> None:
    found = augmented(CLIP, PreprocessConfig(gain_db=6), epoch, "q").samples
    ratio = found[1:] / CLIP.samples[1:]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert -6 <= 20 * np.log10(ratio[0]) <= 6


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000))
def test_noise_has_the_ratio_that_is_asked_for(epoch: int) -> None:
    noise = augmented(CLIP, PreprocessConfig(noise_snr_db=10), epoch, "q").samples - CLIP.samples
    snr = 10 * np.log10(np.mean(CLIP.samples**2) / np.mean(noise**2))
    assert 10 - 0.5 <= snr <= 30 + 0.5


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000))
def test_shifting_rotates_by_at_most_the_seconds_given(epoch: int) -> None:
    ramp = Waveform(np.arange(1_000, dtype=np.float32), RATE)
    found = augmented(ramp, PreprocessConfig(shift_seconds=0.1), epoch, "q").samples
    shift = int(np.flatnonzero(found == 0)[0])
    assert min(shift, 1_000 - shift) <= 100
    np.testing.assert_array_equal(np.roll(ramp.samples, shift), found)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1_000), st.sampled_from([0.1, 5.0]))
def test_one_stretch_is_masked_and_never_more_than_half(epoch: int, seconds: float) -> None:
    ones = Waveform(np.ones(1_000, np.float32), RATE)
    found = augmented(ones, PreprocessConfig(mask_seconds=seconds), epoch, "q").samples
    masked = np.flatnonzero(found == 0)
    assert len(masked) <= min(1_000 * seconds, 500)
    assert len(masked) == 0 or masked[-1] - masked[0] + 1 == len(masked)
    assert (ones.samples == 1).all()  # the clip itself is not written to


def test_all_four_change_something_in_some_epoch() -> None:
    changes: dict[str, Any] = {"gain_db": 6.0, "noise_snr_db": 20.0, "shift_seconds": 0.5, "mask_seconds": 0.5}
    for name, value in changes.items():
        config = PreprocessConfig(**{name: value})
        assert config.augments
        assert not np.array_equal(augmented(CLIP, config, 0, "q").samples, CLIP.samples)


def test_only_questions_that_are_learned_from_are_augmented_and_epochs_differ() -> None:
    config = DataConfig(adapter=4, test=4, preprocess=replace(ALL, peak=True))
    plain = open_split(replace(config, preprocess=PreprocessConfig()), "test")
    test = open_split(config, "test")
    for before, after in zip(plain, test, strict=True):
        assert isinstance(before.audio, Waveform)
        assert isinstance(after.audio, Waveform)
        np.testing.assert_array_equal(after.audio.samples, peak_normalised(before.audio).samples)
    learned = open_split(config, "adapter")
    assert isinstance(learned, PreprocessedSamples)
    first, again, second = (samples[0].audio for samples in (learned, learned.at_epoch(0), learned.at_epoch(1)))
    assert isinstance(first, Waveform)
    assert isinstance(again, Waveform)
    assert isinstance(second, Waveform)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, second.samples)
    assert [part.id for part in learned[1:3]] == ["scenes-adapter-000001", "scenes-adapter-000002"]


def test_frames_stand_side_by_side() -> None:
    strip = side_by_side([Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")])
    assert strip.size == (12, 3)
    assert [strip.getpixel((x, 1)) for x in (1, 5, 9)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_a_videos_frames_become_one_picture(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for level in np.linspace(0, 250, 20).astype(np.uint8):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    samples = [Sample("q", "?", ("a",), image=tmp_path / "a.mp4")]
    (found,) = preprocessed(samples, PreprocessConfig(frames=2), augment=False)
    assert isinstance(found.image, Image.Image)
    assert found.image.size == (64, 16)
    left, right = (np.asarray(found.image)[:, part].mean() for part in (slice(32), slice(32, 64)))
    assert (left, right) == (pytest.approx(66, abs=15), pytest.approx(197, abs=15))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 4}, r"data\.preprocess\.frames must be 1, 2 or 3, got 4"),
        ({"gain_db": -1}, r"data\.preprocess\.gain_db must lie between 0 and 40, got -1"),
        ({"shift_seconds": float("nan")}, r"data\.preprocess\.shift_seconds must lie between 0 and 600, got nan"),
        ({"mask_seconds": 601}, r"data\.preprocess\.mask_seconds must lie between 0 and 600, got 601"),
        ({"noise_snr_db": 200}, r"data\.preprocess\.noise_snr_db must lie between -20 and 100, got 200"),
        ({"seed": -1}, r"data\.preprocess\.seed must not be below 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PreprocessConfig(**values)
