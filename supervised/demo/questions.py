"""Questions about a scene, as an explicit distribution: sampling draws from it, the best guess is computed from it.

*vl* questions need the picture only, *audio* questions the sound only, *av* questions both.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from supervised.demo.world import CLASSES, COLORS, Scene, source_posterior

COUNTS = ("zero", "one", "two", "three")


@dataclass(frozen=True)
class Question:
    """A question with its one answer; `type` reads "vl/color"."""

    text: str
    answer: str
    type: str

    @property
    def needs_audio(self) -> bool:
        """Whether the answer depends on the sound."""
        return not self.type.startswith("vl/")


Weighted = tuple[float, Question]


def question_distribution(scene: Scene, needs_audio: bool) -> list[Weighted]:
    """Return every question of the wanted kind that the scene allows, with probabilities that sum to 1."""
    templates = _audio_templates(scene) if needs_audio else _vl_templates(scene)
    total = sum(weight for weight, questions in templates if questions)
    return [
        (weight / total * share, question)
        for weight, questions in templates
        if questions
        for share, question in questions
    ]


def draw_question(rng: np.random.Generator, scene: Scene, needs_audio: bool) -> Question:
    """Draw a question of the wanted kind about `scene`."""
    questions = question_distribution(scene, needs_audio)
    return questions[int(rng.choice(len(questions), p=[p for p, _ in questions]))][1]


def best_guess(scene: Scene, question: Question) -> tuple[str, float]:
    """Return the likeliest answer to an audio or av question from picture and question alone, with its probability.

    Bayes' rule over every set of sources: P(sources | picture, question) is proportional to
    P(sources | picture) * P(question | picture, sources). No model can guess better on average.
    """
    mass: dict[str, float] = defaultdict(float)
    for sources, prior in source_posterior(scene.on_screen):
        for p, other in question_distribution(replace(scene, sources=sources), needs_audio=True):
            if other.text == question.text:
                mass[other.answer] += prior * p
    answer = max(mass, key=mass.__getitem__)
    return answer, mass[answer] / sum(mass.values())


def hearing(sources: frozenset[str]) -> str:
    """Return what is heard as words, such as "dog and rain"; "nothing" for silence."""
    return " and ".join(sorted(sources)) or "nothing"


def _even(questions: list[Question]) -> list[Weighted]:
    return [(1 / len(questions), question) for question in questions]


def _yes_no(yes: list[Question], no: list[Question]) -> list[Weighted]:
    """Half the weight on questions answered yes and half on no, where both exist."""
    sides = [side for side in (yes, no) if side]
    return [(1 / len(sides) / len(side), question) for side in sides for question in side]


def _vl_templates(scene: Scene) -> list[tuple[float, list[Weighted]]]:
    things = scene.objects
    colors = [thing.color for thing in things]
    absent = [kind for kind in CLASSES if kind not in scene.on_screen]
    return [
        (1.0, _even([Question(f"what color is the {t.kind} ?", t.color, "vl/color") for t in things])),
        (1.0, _even([Question(f"where is the {t.kind} ?", t.position, "vl/position") for t in things])),
        (0.5, [(1.0, Question("how many things do you see ?", COUNTS[len(things)], "vl/count"))]),
        (
            0.5,
            _even([Question(f"how many {c} things do you see ?", COUNTS[colors.count(c)], "vl/count") for c in COLORS]),
        ),
        (
            1.0,
            _yes_no(
                [Question(f"do you see a {kind} ?", "yes", "vl/presence") for kind in scene.on_screen],
                [Question(f"do you see a {kind} ?", "no", "vl/presence") for kind in absent],
            ),
        ),
        (
            1.0,
            _maybe_even(
                [
                    Question(f"which thing is {t.color} ?", t.kind, "vl/which")
                    for t in things
                    if colors.count(t.color) == 1
                ]
            ),
        ),
    ]


def _audio_templates(scene: Scene) -> list[tuple[float, list[Weighted]]]:
    sources = sorted(scene.sources)
    silent_things = [kind for kind in scene.on_screen if kind not in scene.sources]
    absent = [kind for kind in CLASSES if kind not in scene.on_screen and kind not in scene.sources]
    single = sources[0] if len(sources) == 1 else None
    thing = next((t for t in scene.objects if t.kind == single), None)
    return [
        (1.0, _sure(single, "which sound do you hear ?", "audio/which")),
        (1.0, _sure(COUNTS[len(sources)], "how many sounds do you hear ?", "audio/count")),
        (0.15, _sure("yes" if sources else "no", "do you hear any sound ?", "audio/any")),
        (
            0.6,
            _yes_no(
                [Question(f"do you hear a {kind} ?", "yes", "audio/presence") for kind in sources],
                # A silent object of the picture is the tempting "no"; a class that is nowhere is the easy one.
                [Question(f"do you hear a {kind} ?", "no", "audio/presence") for kind in silent_things or absent],
            ),
        ),
        (1.0, _sure(thing.color if thing else None, "what color is the thing you hear ?", "av/color")),
        (1.0, _sure(thing.position if thing else None, "where is the thing you hear ?", "av/position")),
        (
            0.5,
            _sure(single and ("yes" if thing else "no"), "does the sound come from the picture ?", "av/source"),
        ),
    ]


def _sure(answer: str | None, text: str, kind: str) -> list[Weighted]:
    return [(1.0, Question(text, answer, kind))] if answer else []


def _maybe_even(questions: list[Question]) -> list[Weighted]:
    return _even(questions) if questions else []
