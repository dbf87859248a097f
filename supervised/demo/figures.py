"""What the shipped models reach on scenes that they never saw; the figures lie beside the weights.

`measure` recomputes them: a slow test holds `weights/figures.json` to what the weights really do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from supervised.config import DataConfig
from supervised.data.media import read_waveform
from supervised.demo.pictures import render_picture
from supervised.demo.pretrain_encoder import CLIP_SECONDS, Clips, make_clips, zero_shot_accuracy
from supervised.demo.questions import best_guess
from supervised.demo.recordings import list_clips
from supervised.demo.scenes import SoundScenes
from supervised.demo.sounds import RATE, Synthesiser
from supervised.encoders.clap import FastClapExtractor

UNSEEN_SEED = 1000
"""Seed of the scenes that figures are measured on; no training run uses it."""
TEST_FOLD = 5


class Figures(TypedDict):
    """Shares of right answers, each between 0 and 1."""

    vl_accuracy: float
    """Base, vl questions, without audio."""
    audio_accuracy_without_audio: float
    """Base, audio and av questions, without audio."""
    audio_best_guess: float
    """Best possible guess at the same questions from picture and question, computed from the generator."""
    encoder_synthesised: float
    """Encoder, class of one synthesised sound among ten."""
    encoder_recorded: float | None
    """Encoder, class of an ESC-10 recording of fold 5 among ten; None where no recordings were given."""


def measure(weights: Path, recordings: str | None, questions: int = 3000, clips: int = 1000) -> Figures:
    """Measure the models in `weights` on unseen scenes and, where given, on recordings of fold 5."""
    vl, audio, guess = _answer(weights / "base", questions)
    extractor = FastClapExtractor.from_pretrained(weights / "encoder")
    rng = np.random.default_rng([UNSEEN_SEED, 30])
    synthesised = make_clips(Synthesiser(), clips, extractor, rng, single=True)
    return Figures(
        vl_accuracy=vl,
        audio_accuracy_without_audio=audio,
        audio_best_guess=guess,
        encoder_synthesised=zero_shot_accuracy(weights / "encoder", synthesised),
        encoder_recorded=None
        if recordings is None
        else zero_shot_accuracy(weights / "encoder", recorded_clips(recordings, TEST_FOLD, extractor)),
    )


def recorded_clips(recordings: str, fold: int, extractor: FastClapExtractor) -> Clips:
    """Return features and class of every recording of one fold, whole clips as they lie in their files."""
    features, sources = [], []
    for path, kind, number in list_clips(recordings):
        if number == fold:
            clip = read_waveform(path, RATE).samples[: CLIP_SECONDS * RATE]
            features.append(extractor(clip, sampling_rate=RATE, return_tensors="np")["input_features"][0])
            sources.append(frozenset((kind,)))
    return Clips(np.stack(features).astype(np.float16), sources)


@torch.no_grad()
def _answer(folder: Path, count: int, batch_size: int = 125) -> tuple[float, float, float]:
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    scenes = SoundScenes(DataConfig(seed=UNSEEN_SEED, test=count), "test")
    right: dict[bool, list[bool]] = {True: [], False: []}
    guesses = []
    for start in range(0, count, batch_size):
        asked = [scenes.scene_and_question(i) for i in range(start, min(start + batch_size, count))]
        turns = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
            for _, question in asked
        ]
        inputs = processor(
            text=processor.apply_chat_template(turns, add_generation_prompt=True),
            images=[render_picture(scene) for scene, _ in asked],
            padding=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for (scene, question), answer in zip(asked, processor.batch_decode(ids, skip_special_tokens=True), strict=True):
            right[question.needs_audio].append(answer.strip() == question.answer)
            if question.needs_audio:
                guesses.append(best_guess(scene, question)[0] == question.answer)
    return float(np.mean(right[False])), float(np.mean(right[True])), float(np.mean(guesses))
