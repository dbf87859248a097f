from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from supervised.config import DataConfig
from supervised.data.sample import Waveform
from supervised.demo.config import EncoderPretraining
from supervised.demo.recordings import Recordings, list_clips, split_folds
from supervised.demo.scenes import SoundScenes
from supervised.demo.sounds import RATE, render_sound
from supervised.demo.world import CLASSES
from supervised.errors import ConfigError, DataError

ESC10 = Path(__file__).parents[4] / "shared" / "data" / "esc10"


@pytest.fixture
def esc10_like(tmp_path: Path) -> Path:
    for number, kind in enumerate(CLASSES, 1):
        folder = tmp_path / f"{number:03d} - {kind}"
        folder.mkdir()
        for fold in range(1, 6):
            tone = np.sin(np.arange(44_100) * 0.01 * (number + fold)).astype(np.float32)
            soundfile.write(folder / f"{fold}-{1000 + number}-A.ogg", tone, 44_100)
    return tmp_path


def test_folds_are_kept_apart(esc10_like: Path) -> None:
    by_fold = {fold: {path for path, _, f in list_clips(esc10_like) if f == fold} for fold in range(1, 6)}
    assert all(len(paths) == len(CLASSES) for paths in by_fold.values())


@pytest.mark.parametrize("test_fold", range(1, 6))
def test_the_folds_of_learning_certificates_and_final_figures_are_all_five_and_kept_apart(test_fold: int) -> None:
    learned = split_folds("adapter", test_fold)
    assert split_folds("train", test_fold) == split_folds("validation", test_fold) == learned
    sides = (*learned, *split_folds("calibration", test_fold), *split_folds("test", test_fold))
    assert sorted(sides) == [1, 2, 3, 4, 5]
    assert split_folds("test", test_fold) == (test_fold,)


def test_the_folds_of_the_default_are_those_of_the_shipped_encoder() -> None:
    assert split_folds("adapter") == EncoderPretraining().folds == (1, 2, 3)


def test_the_scenes_of_a_split_sound_like_its_folds(esc10_like: Path) -> None:
    bank = Recordings(esc10_like, [2])
    scenes = SoundScenes(DataConfig(recordings=str(esc10_like), test_fold=2), "test")
    scene = scenes.scene_and_question(0)[0]
    heard = scenes[0].audio
    assert isinstance(heard, Waveform)
    np.testing.assert_array_equal(heard.samples, render_sound(scene, bank).samples)
    other = SoundScenes(DataConfig(recordings=str(esc10_like)), "test")[0].audio
    assert isinstance(other, Waveform)
    assert not np.array_equal(heard.samples, other.samples)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_fold": 6, "recordings": "ESC-10"}, r"data\.test_fold must be one of the folds 1 to 5, got 6"),
        ({"test_fold": 2}, r"data\.test_fold is 2, but only recordings have folds; give their folder"),
    ],
)
def test_a_fold_that_is_not_there_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**values)


def test_clips_are_resampled_and_short_ones_are_surrounded_by_silence(esc10_like: Path) -> None:
    bank = Recordings(esc10_like, folds=[5])
    drawn = bank.draw("dog", 3.0, np.random.default_rng(0))
    assert len(drawn) == 3 * RATE
    assert (drawn == 0).mean() == pytest.approx(2 / 3, abs=0.05)


def test_esc50_names_are_understood(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for target in (0, 3):  # 0 is the dog; 3 is a class that SoundScenes does not have
        soundfile.write(tmp_path / "audio" / f"1-100032-A-{target}.wav", np.ones(100, np.float32) / 2, 16_000)
    assert [(path.name, kind, fold) for path, kind, fold in list_clips(tmp_path)] == [("1-100032-A-0.wav", "dog", 1)]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere; data\.recordings wants a folder in the ESC-10"):
        Recordings(tmp_path / "nowhere", [1])


def test_a_folder_without_clips_says_how_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no clip named like '001 - Dog bark/1-100032-A\.ogg'"):
        Recordings(tmp_path, [1])


def test_missing_classes_are_listed(esc10_like: Path) -> None:
    next((esc10_like / "010 - fire").glob("5-*")).unlink()
    with pytest.raises(DataError, match=r"has no clip of fire in folds \[5\]"):
        Recordings(esc10_like, [5])


@pytest.mark.skipif(not ESC10.is_dir(), reason="the ESC-10 recordings are not beside the repository")
def test_the_real_esc10_has_forty_clips_a_class_and_eight_a_fold() -> None:
    clips = list_clips(ESC10)
    assert len(clips) == 400
    assert {sum(k == kind and f == fold for _, k, f in clips) for kind in CLASSES for fold in range(1, 6)} == {8}
