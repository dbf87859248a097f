from __future__ import annotations

import numpy as np
import pytest

from supervised.config import DataConfig
from supervised.data.sample import SPLITS, Waveform
from supervised.demo.pictures import SIZE, render_picture
from supervised.demo.scenes import QUESTIONS_PER_SCENE, SoundScenes
from supervised.demo.sounds import LEVEL, RATE, Synthesiser, mix, render_sound
from supervised.demo.world import CLASSES, RETENTION_SET, Scene, SceneObject

SMALL = DataConfig(adapter=40, train=400, validation=40, calibration=40, test=40)


def test_equal_configurations_give_equal_pixels_samples_and_words() -> None:
    first, second = SoundScenes(SMALL, "train")[7], SoundScenes(SMALL, "train")[7]
    assert isinstance(first.audio, Waveform)
    assert isinstance(second.audio, Waveform)
    assert first.question == second.question
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert np.array_equal(first.audio.samples, second.audio.samples)


def test_splits_and_seeds_give_different_scenes() -> None:
    scenes = {SoundScenes(SMALL, split).scene_and_question(0)[0] for split in SPLITS}
    other = SoundScenes(DataConfig(seed=1), "train").scene_and_question(0)[0]
    assert len(scenes | {other}) == len(SPLITS) + 1


def test_two_neighbouring_questions_share_scene_and_group_and_no_group_is_in_two_splits() -> None:
    train = SoundScenes(SMALL, "train")
    assert train.scene_and_question(4)[0] == train.scene_and_question(5)[0]
    assert train[4].group == train[5].group != train[6].group
    groups = [{sample.group for sample in SoundScenes(SMALL, split)[:10]} for split in SPLITS]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_the_mixture_has_the_asked_share_of_retention_questions() -> None:
    train = SoundScenes(SMALL, "train")
    asked = [train.scene_and_question(i)[1].needs_audio for i in range(len(train))]
    assert 1 - np.mean(asked) == pytest.approx(SMALL.retention_share, abs=0.08)
    sample = train[asked.index(False)]
    assert sample.retention_set == RETENTION_SET
    assert sample.audio is not None  # irrelevant, but there: the policy must learn to leave it


@pytest.mark.parametrize("turn", range(QUESTIONS_PER_SCENE))
def test_the_kind_of_a_question_does_not_depend_on_the_picture(turn: int) -> None:
    train = SoundScenes(DataConfig(train=4000), "train")
    asked: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    for index in range(turn, len(train), QUESTIONS_PER_SCENE):
        scene, question = train.scene_and_question(index)
        asked[len(scene.objects)].append(question.needs_audio)
    for kinds in asked.values():
        assert 1 - np.mean(kinds) == pytest.approx(SMALL.retention_share, abs=0.08)


def test_pictures_are_drawn_at_any_size_and_differ_by_class() -> None:
    def single(kind: str) -> Scene:
        return Scene((SceneObject(kind, "white", 4, (0.0, 0.0)),), frozenset(), 2.0, 20.0, seed=3)

    pictures = {render_picture(single(kind)).tobytes() for kind in CLASSES}
    assert len(pictures) == len(CLASSES)
    assert render_picture(single("dog")).size == (SIZE, SIZE)
    assert render_picture(single("dog"), size=300).size == (300, 300)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_synthesised_sound_is_finite_varied_and_as_long_as_asked(kind: str) -> None:
    rng = np.random.default_rng(0)
    first, second = (Synthesiser().draw(kind, 1.5, rng) for _ in range(2))
    assert len(first) == len(second) == round(1.5 * RATE)
    assert np.isfinite(first).all()
    assert np.abs(first).max() > 0
    assert not np.array_equal(first, second)


def test_noise_has_the_asked_distance_to_the_sound() -> None:
    tone = np.sin(np.arange(RATE * 2) / 5).astype(np.float32)
    rng = np.random.default_rng(0)
    quiet, loud = mix([tone], len(tone), 30.0, rng).samples, mix([tone], len(tone), -10.0, rng).samples
    spectrum = np.abs(np.fft.rfft(quiet))
    assert spectrum.max() / np.median(spectrum) > 100  # the tone stands out
    assert np.sqrt(np.mean(loud**2)) > 2 * LEVEL  # the noise is the louder part


def test_a_scene_without_sources_is_quiet_but_not_silent() -> None:
    silent = Scene((SceneObject("dog", "red", 0, (0.0, 0.0)),), frozenset(), 2.0, 20.0, seed=5)
    clip = render_sound(silent, Synthesiser()).samples
    assert 0 < np.sqrt(np.mean(clip**2)) < LEVEL / 10


def test_asking_beyond_the_split_raises() -> None:
    with pytest.raises(IndexError, match="question 40 of 40"):
        SoundScenes(SMALL, "test")[40]
