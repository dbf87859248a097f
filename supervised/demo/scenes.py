"""SoundScenes as samples: a split is a sequence whose questions are rendered when they are asked for.

Two questions about one scene follow each other and share its group. Split, seed and number fix everything, so no
file is kept and the same configuration gives the same pixels, samples and words everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import overload

import numpy as np

from supervised.config import DataConfig
from supervised.data.sample import SPLITS, Sample, Waveform
from supervised.demo.pictures import render_picture
from supervised.demo.questions import Question, draw_question
from supervised.demo.recordings import Recordings, split_folds
from supervised.demo.sounds import SoundBank, Synthesiser, render_sound
from supervised.demo.world import RETENTION_SET, Scene, draw_scene

QUESTIONS_PER_SCENE = 2
VERSION = 1
"""To be raised whenever the same configuration gives other questions: adapters and tables name it as their origin."""


class SoundScenes(Sequence[Sample]):
    """The questions of one split, `getattr(config, split)` of them."""

    def __init__(self, config: DataConfig, split: str) -> None:
        self.config = config
        self.split = split
        self._bank: SoundBank = (
            Recordings(config.recordings, split_folds(split, config.test_fold))
            if config.recordings is not None
            else Synthesiser()
        )
        # Neighbouring questions share a scene: its sound is rendered once.
        self._sound = lru_cache(maxsize=4)(lambda scene: render_sound(scene, self._bank))

    def __len__(self) -> int:
        return int(getattr(self.config, self.split))

    def scene_and_question(self, index: int) -> tuple[Scene, Question]:
        """Return question `index` as facts, without rendering anything."""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} of {len(self)}")
        number = index // QUESTIONS_PER_SCENE
        seed = [self.config.seed, SPLITS.index(self.split), number]
        scene = draw_scene(np.random.default_rng(seed))
        # Counted from 1: NumPy pads a seed with zeros, so that 0 would repeat the very draws that made the scene.
        rng = np.random.default_rng([*seed, 1 + index % QUESTIONS_PER_SCENE])
        return scene, draw_question(rng, scene, needs_audio=bool(rng.random() >= self.config.retention_share))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Render question `index`; a slice gives a list."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        scene, question = self.scene_and_question(index)
        sound: Waveform = self._sound(scene)
        return Sample(
            id=f"scenes-{self.split}-{index:06d}",
            question=question.text,
            answers=(question.answer,),
            image=render_picture(scene),
            audio=sound,
            retention_set=None if question.needs_audio else RETENTION_SET,
            type=question.type,
            group=f"scenes-{self.split}-{index // QUESTIONS_PER_SCENE:06d}",
            split=self.split,
        )
