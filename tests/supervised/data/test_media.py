from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from supervised.data import limits
from supervised.data.media import check_media, read_image, read_waveform
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def test_a_stereo_96_khz_clip_is_mixed_down_and_resampled_once(tmp_path: Path) -> None:
    left, right = tone(96_000), 0.5 * tone(96_000)
    soundfile.write(tmp_path / "clip.wav", np.stack([left, right], axis=1), 96_000, subtype="FLOAT")
    waveform = read_waveform(tmp_path / "clip.wav", 16_000)
    assert (waveform.rate, str(waveform.samples.dtype), waveform.samples.shape) == (16_000, "float32", (8_000,))
    middle = slice(1_000, 7_000)  # the filter rings at both ends
    np.testing.assert_allclose(waveform.samples[middle], 0.75 * tone(16_000)[middle], atol=2e-3)


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.ogg"])
def test_a_clip_with_the_right_rate_is_only_decoded(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, 0.5 * tone(16_000), 16_000)
    waveform = read_waveform(tmp_path / name, 16_000)
    np.testing.assert_allclose(waveform.samples, 0.5 * tone(16_000), atol=0.05 if name.endswith("ogg") else 1e-4)


def test_a_waveform_in_memory_passes_through_or_is_resampled() -> None:
    waveform = Waveform(tone(48_000), 48_000)
    assert read_waveform(waveform, 48_000) is waveform
    assert read_waveform(waveform, 16_000).samples.shape == (8_000,)


def test_silence_is_refused_in_a_file_and_allowed_in_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.zeros(100), 16_000)
    with pytest.raises(DataError, match=r'clip\.wav is silent \(only zeros\); replace it, or write "audio": null'):
        read_waveform(tmp_path / "clip.wav", 16_000)
    assert len(read_waveform(Waveform(np.zeros(100, np.float32), 16_000), 16_000).samples) == 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_clip_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    samples = tone(16_000)
    samples[3] = value
    soundfile.write(tmp_path / "clip.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"clip\.wav holds NaN or infinite samples; decode it again"):
        read_waveform(tmp_path / "clip.wav", 16_000)
    with pytest.raises(DataError, match="clip in memory holds NaN or infinite samples"):
        read_waveform(Waveform(samples, 16_000), 16_000)


def test_a_clip_that_is_missing_empty_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "header.wav", np.zeros(0), 16_000)
    for name, message in (
        ("none.wav", r"none\.wav does not exist; correct the path"),
        ("empty.wav", r"empty\.wav is empty \(0 bytes\); copy it again"),
        ("header.wav", r"header\.wav is empty; allowed: at least one sample"),
        (".", "is not a file; correct the path"),
    ):
        with pytest.raises(DataError, match=message):
            read_waveform(tmp_path / name, 16_000)


def test_a_corrupt_clip_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "clip.ogg").write_bytes(b"OggS" + bytes(range(200)))
    with pytest.raises(DataError, match=r"clip\.ogg cannot be decoded \(.+\); allowed: WAV.*leave it out") as caught:
        read_waveform(tmp_path / "clip.ogg", 16_000)
    assert "\n" not in str(caught.value)


def test_a_clip_with_a_lying_header_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "long.wav", tone(8_000), 8_000)
    soundfile.write(tmp_path / "wide.wav", np.ones((10, 17)), 8_000)
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.25)
    with pytest.raises(DataError, match=r"long\.wav lasts 0 s; allowed: up to 0 s; cut it into clips"):
        read_waveform(tmp_path / "long.wav", 8_000)
    with pytest.raises(DataError, match=r"wide\.wav has 17 channels; allowed: 1 to 16; mix it down"):
        read_waveform(tmp_path / "wide.wav", 8_000)


def test_samples_without_their_rate_are_refused() -> None:
    with pytest.raises(DataError, match=r"path of a file or a Waveform, got ndarray; .* Waveform\(samples, rate\)\.$"):
        read_waveform(tone(16_000), 16_000)  # type: ignore[arg-type]


def test_a_clip_too_short_for_the_rate_is_refused() -> None:
    with pytest.raises(DataError, match=r"has 1 samples at 48000 Hz, too few for 16000 Hz"):
        read_waveform(Waveform(np.ones(1, np.float32), 48_000), 16_000)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.ones((2, 5), np.float32), 16_000, r"must be float32 of shape \[n\], got float32 \[2, 5\]"),
        (np.ones(5), 16_000, r"must be float32 of shape \[n\], got float64 \[5\]"),
        (np.ones(0, np.float32), 16_000, "is empty; allowed: at least one sample"),
        (np.ones(5, np.float32), 0, "has a rate of 0 Hz; allowed: 1000 to 384000"),
    ],
)
def test_a_malformed_waveform_in_memory_is_refused(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_waveform(Waveform(samples, rate), 16_000)


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_pictures_come_back_in_rgb(tmp_path: Path, name: str) -> None:
    picture("L").save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", (8, 12))


def test_a_picture_in_memory_is_converted_and_kept_as_it_is_otherwise() -> None:
    np.testing.assert_array_equal(np.asarray(read_image(picture())), np.asarray(picture()))
    assert read_image(picture("RGBA")).mode == "RGB"


def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    picture().save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(image), np.rot90(np.asarray(picture()), -1))


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x1000], [0x8000, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[..., 0].tolist() == [[0, 0x10], [0x80, 0xFF]]


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("wav", r"31,978 of 64,000 bytes of sound"),
        ("aiff", "bytes of sound"),
        ("mp3", r"\d\.\d s of 2\.0 s"),
    ],
)
def test_a_truncated_clip_is_refused(tmp_path: Path, form: str, told: str) -> None:
    noise = (0.1 * np.random.default_rng(0).normal(size=32_000)).astype(np.float32)
    path = tmp_path / f"clip.{form}"
    soundfile.write(path, noise, 16_000)
    assert len(read_waveform(path, 16_000).samples) == 32_000
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"clip\.{form} is truncated: .*{told} are there; copy it again or leave it"):
        read_waveform(path, 16_000)


def test_a_clip_whose_writer_did_not_know_its_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.full(1000, 0.5, dtype=np.float32), 16_000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert len(read_waveform(path, 16_000).samples) == 1000


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_truncated_picture_is_refused(tmp_path: Path, name: str) -> None:
    picture().resize((200, 200)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be decoded \(.+\); allowed: whole files in JPEG, PNG, WEBP"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("limit", [100, 60])  # Pillow warns above its limit and raises above twice that
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    picture().resize((11, 11)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"a\.png has more than 64,000,000 pixels; resize it"):
        read_image(tmp_path / "a.png")


def test_a_picture_above_our_own_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PIXELS", 90)
    with pytest.raises(DataError, match=r"picture in memory has 8 x 12 pixels; allowed: 1 to 90 in all; resize it"):
        read_image(picture())


def test_other_formats_are_refused(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", format="BMP")
    with pytest.raises(DataError, match=r"a\.png cannot be decoded \(.+\); allowed: whole files in JPEG"):
        read_image(tmp_path / "a.png")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_damaged_bytes_give_a_picture_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, format=form)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pictures") / "a.bin"
    path.write_bytes(content)
    try:
        assert read_image(path).mode == "RGB"
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def test_a_samples_media_are_checked_and_the_error_names_the_sample(tmp_path: Path) -> None:
    whole = Sample("q1", "what?", ("dog",), image=picture(), audio=Waveform(tone(16_000), 16_000))
    check_media(whole, 16_000)
    check_media(Sample("q2", "what?", ("dog",)), 16_000)
    with pytest.raises(DataError, match=r"^sample 'q3': clip .*none\.wav does not exist"):
        check_media(Sample("q3", "what?", ("dog",), audio=tmp_path / "none.wav"), 16_000)
