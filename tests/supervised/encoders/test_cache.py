from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervised.config import ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.encoders.cache import ABANDONED_SECONDS, FeatureCache, entry_key, packages
from supervised.encoders.features import AudioEncoder, AudioFeatures
from supervised.encoders.loading import load_encoder
from supervised.errors import ConfigError
from supervised.safe_model import SafeModel

WRITER = """
import sys
import numpy as np
import torch
torch.set_num_threads(1)
from supervised.data.sample import Waveform
from supervised.encoders.cache import FeatureCache
from supervised.encoders.loading import load_encoder

folder, source, count, own = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
encoder, cache = load_encoder(source), FeatureCache(folder)
print("ready", flush=True)
sys.stdin.readline()
for seed in range(count):
    for owner in (0, int(own)):  # clips that all writers share, and its own
        samples = np.random.default_rng([owner, seed]).normal(0, 0.1, 8000).astype(np.float32)
        cache.encode(encoder, [Waveform(samples, 16_000)])
print("done", flush=True)
"""
Equal = Callable[[AudioFeatures, AudioFeatures], bool]


class Counting:
    """The encoder, and how many clips it was given."""

    def __init__(self, encoder: AudioEncoder) -> None:
        self.encoder = encoder
        self.clips = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def __call__(self, waveforms: Sequence[Waveform | None]) -> AudioFeatures:
        self.clips += sum(waveform is not None for waveform in waveforms)
        return self.encoder(waveforms)


@pytest.fixture
def encoder(tiny_encoder_dir: Path) -> Counting:
    return Counting(load_encoder(tiny_encoder_dir))


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.features") if not path.name.startswith("."))


def _clip(owner: int, seed: int) -> Waveform:
    return Waveform(np.random.default_rng([owner, seed]).normal(0, 0.1, 8000).astype(np.float32), 16_000)


def _writer(folder: Path, source: Path, count: int, own: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(source), str(count), str(own)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_clip_is_encoded_once(
    encoder: Counting, noise: Callable[..., Waveform], tmp_path: Path, equal: Equal
) -> None:
    clips = [noise(1.0), noise(0.5, 1), noise(1.0), None]
    first = FeatureCache(tmp_path).encode(encoder, clips)
    assert encoder.clips == 2  # the same samples twice are one entry
    second = FeatureCache(tmp_path).encode(encoder, clips)
    assert encoder.clips == 2
    assert equal(first, second)
    assert equal(second, encoder(clips))


def test_rows_without_a_clip_and_no_rows_at_all_are_not_kept(encoder: Counting, tmp_path: Path) -> None:
    features = FeatureCache(tmp_path).encode(encoder, [None, None])
    assert features.tokens.shape == (2, 64, 16)
    assert not features.present.any()
    assert len(FeatureCache(tmp_path).encode(encoder, [])) == 0
    assert _entries(tmp_path) == []


def test_the_key_covers_samples_rate_and_encoder(
    encoder: Counting, tiny_whisper_dir: Path, noise: Callable[..., Waveform]
) -> None:
    clip = noise(1.0)
    other = Waveform(clip.samples.copy(), 16_000)
    assert entry_key(encoder, other) == entry_key(encoder, clip)
    other.samples[-1] += 1e-3
    keys = {
        entry_key(encoder, clip),
        entry_key(encoder, other),
        entry_key(encoder, Waveform(clip.samples, 8000)),
        entry_key(load_encoder(tiny_whisper_dir), clip),
    }
    assert len(keys) == 4


def test_another_version_of_a_package_makes_another_entry(
    encoder: Counting, noise: Callable[..., Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = packages()
    assert set(versions) == {"numpy", "soxr", "torch", "transformers"}
    keys = {entry_key(encoder, noise(1.0))}
    for name in versions:
        monkeypatch.setattr("supervised.encoders.cache.packages", lambda name=name: versions | {name: "0"})
        keys.add(entry_key(encoder, noise(1.0)))
    assert len(keys) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:200] + b"\0" * 100 + content[300:],
    ],
    ids=["empty", "cut early", "cut late", "one bit in a value", "one bit in the checksum", "a hole"],
)
def test_a_damaged_entry_is_made_again(
    encoder: Counting, noise: Callable[..., Waveform], tmp_path: Path, equal: Equal, damage: Callable[[bytes], bytes]
) -> None:
    cache = FeatureCache(tmp_path)
    expected = cache.encode(encoder, [noise(1.0)])
    (entry,) = _entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert equal(cache.encode(encoder, [noise(1.0)]), expected)
    assert encoder.clips == 2
    assert entry.read_bytes() == whole


def test_an_entry_under_anothers_name_is_made_again(
    encoder: Counting, noise: Callable[..., Waveform], tmp_path: Path, equal: Equal
) -> None:
    cache = FeatureCache(tmp_path)
    cache.encode(encoder, [noise(1.0)])
    (entry,) = _entries(tmp_path)
    other = entry_key(encoder, noise(1.0, 1))
    (tmp_path / other[:2]).mkdir(exist_ok=True)
    entry.rename(tmp_path / other[:2] / f"{other}.features")
    assert equal(cache.encode(encoder, [noise(1.0, 1)]), encoder.encoder([noise(1.0, 1)]))


def test_tokens_that_do_not_count_take_no_room(
    tiny_whisper_dir: Path, noise: Callable[..., Waveform], tmp_path: Path
) -> None:
    encoder = load_encoder(tiny_whisper_dir)
    FeatureCache(tmp_path).encode(encoder, [noise(1.0)])  # 13 of 375 tokens
    (entry,) = _entries(tmp_path)
    assert entry.stat().st_size < 13 * 24 * 4 + 1500


def test_the_folder_may_be_cleared_while_it_is_in_use(
    encoder: Counting, noise: Callable[..., Waveform], tmp_path: Path, equal: Equal
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    expected = cache.encode(encoder, [noise(1.0)])
    (entry,) = _entries(tmp_path)
    entry.unlink()
    entry.parent.rmdir()
    (tmp_path / "cache").rmdir()
    assert equal(cache.encode(encoder, [noise(1.0)]), expected)
    assert _entries(tmp_path) == [entry]


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    old, new = (tmp_path / "ab" / f".{name}.features.x.features" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    then = time.time() - ABANDONED_SECONDS - 60
    os.utime(old, (then, then))
    FeatureCache(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_to_is_told_of_once_and_does_not_stop_the_work(
    encoder: Counting, noise: Callable[..., Waveform], tmp_path: Path, equal: Equal
) -> None:
    cache = FeatureCache(tmp_path)
    key = entry_key(encoder, noise(1.0))
    (tmp_path / key[:2]).write_text("a file where the entry's folder should be")
    with pytest.warns(UserWarning, match=r"features cannot be kept in .* they are made anew each time"):
        first = cache.encode(encoder, [noise(1.0)])
    assert equal(cache.encode(encoder, [noise(1.0)]), first)  # a second warning would be an error here


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"model\.feature_cache is '.*file.sub', which cannot be made \(.*\); give a"):
        FeatureCache(tmp_path / "file" / "sub")


@pytest.mark.slow
def test_two_processes_that_write_at_once_make_whole_entries(
    tiny_encoder_dir: Path, encoder: Counting, tmp_path: Path, equal: Equal
) -> None:
    count = 30
    writers = [_writer(tmp_path, tiny_encoder_dir, count, own) for own in (1, 2)]
    for writer in writers:
        _start(writer)
    for writer in writers:
        assert writer.communicate(timeout=120)[0] == "done\n"
        assert writer.returncode == 0
    assert len(_entries(tmp_path)) == 3 * count  # the shared ones once
    assert list(tmp_path.rglob(".*")) == []
    cache = FeatureCache(tmp_path)
    for owner in (0, 1, 2):
        clips = [_clip(owner, seed) for seed in range(count)]
        found = cache.encode(encoder, clips)
        assert encoder.clips == 0  # every entry is whole
        assert equal(found, encoder.encoder(clips))


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_entries_only(
    tiny_encoder_dir: Path, encoder: Counting, tmp_path: Path, equal: Equal
) -> None:
    for own, enough in ((1, 5), (2, 12)):
        with _writer(tmp_path, tiny_encoder_dir, 100_000, own) as writer:
            before = len(_entries(tmp_path))
            _start(writer)
            while len(_entries(tmp_path)) < before + enough:
                assert writer.poll() is None
            writer.send_signal(signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
    entries = {path.stem for path in _entries(tmp_path)}
    cache = FeatureCache(tmp_path)
    for owner in (0, 1, 2):
        clips = [_clip(owner, seed) for seed in range(20)]
        missing = sum(entry_key(encoder, clip) not in entries for clip in clips)
        encoder.clips = 0
        assert equal(cache.encode(encoder, clips), encoder.encoder(clips))
        assert encoder.clips == missing  # what is there was whole; the rest is made now


def test_a_model_keeps_what_it_hears_where_it_is_told_to(
    tiny_config: ModelConfig, tiny_samples: list[Sample], tmp_path: Path, equal: Equal
) -> None:
    clips = [sample.audio for sample in tiny_samples]
    model = SafeModel.attach(replace(tiny_config, feature_cache=str(tmp_path / "cache")))
    plain = SafeModel.attach(tiny_config)
    expected = plain.encode_audio(clips)
    assert equal(model.encode_audio(clips), expected)
    assert len(_entries(tmp_path / "cache")) == 5
    assert equal(model.encode_audio(clips), expected)
    assert model.fingerprint()["config"] == plain.fingerprint()["config"]  # where it lies decides about no answer


def test_a_saved_adapter_does_not_tell_where_the_cache_was(tiny_config: ModelConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = SafeModel.attach(replace(tiny_config, feature_cache=str(cache)))
    model.save_pretrained(tmp_path / "adapter")
    assert SafeModel.from_pretrained(tmp_path / "adapter").config.feature_cache is None
    loaded = SafeModel.from_pretrained(tmp_path / "adapter", feature_cache=str(tmp_path / "other"))
    loaded.encode_audio([Waveform(np.ones(800, np.float32), 16_000)])
    assert len(_entries(tmp_path / "other")) == 1
