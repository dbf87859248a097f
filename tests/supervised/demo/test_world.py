from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.demo.questions import best_guess, draw_question, hearing, question_distribution
from supervised.demo.world import CLASSES, ON_SCREEN_P, SOURCE_COUNT_P, Scene, SceneObject, draw_scene, source_posterior


def thing(kind: str, color: str = "red", cell: int = 0) -> SceneObject:
    return SceneObject(kind, color, cell, (0.0, 0.0))


def scene(*objects: SceneObject, sources: frozenset[str] = frozenset()) -> Scene:
    return Scene(objects, sources, seconds=2.0, snr_db=20.0, seed=0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_every_drawn_scene_keeps_the_rules_of_the_world(seed: int) -> None:
    drawn = draw_scene(np.random.default_rng(seed))
    assert 1 <= len(drawn.objects) <= 3
    assert len({o.kind for o in drawn.objects}) == len({o.cell for o in drawn.objects}) == len(drawn.objects)
    assert len(drawn.sources) <= 2
    assert drawn.sources <= set(CLASSES)
    assert 1.5 <= drawn.seconds <= 5.0


@given(st.permutations(CLASSES), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_probabilities_of_all_source_sets_sum_to_one(kinds: list[str], count: int) -> None:
    assert sum(p for _, p in source_posterior(tuple(kinds[:count]))) == pytest.approx(1.0)


def test_a_single_object_sounds_alone_with_the_probability_computed_by_hand() -> None:
    posterior = dict(source_posterior(("dog",)))
    assert posterior[frozenset({"dog"})] == pytest.approx(SOURCE_COUNT_P[1] * ON_SCREEN_P)
    assert posterior[frozenset({"rain"})] == pytest.approx(SOURCE_COUNT_P[1] * (1 - ON_SCREEN_P) / 9)


def test_source_posterior_agrees_with_drawing() -> None:
    rng = np.random.default_rng(0)
    drawn = [s for s in (draw_scene(rng) for _ in range(6000)) if len(s.objects) == 2]
    expected = np.mean([dict(source_posterior(s.on_screen))[frozenset()] for s in drawn])
    seen = np.mean([not s.sources for s in drawn])
    assert seen == pytest.approx(expected, abs=0.03)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=200, deadline=None)
def test_question_probabilities_sum_to_one_and_types_tell_the_need_for_audio(seed: int, needs_audio: bool) -> None:
    questions = question_distribution(draw_scene(np.random.default_rng(seed)), needs_audio)
    assert sum(p for p, _ in questions) == pytest.approx(1.0)
    assert all(q.needs_audio is needs_audio for _, q in questions)


def test_answers_of_a_scene_written_down_by_hand() -> None:
    dog_and_fire = scene(thing("dog", "red", 0), thing("fire", "blue", 5), sources=frozenset({"fire"}))
    vl = {q.text: q.answer for _, q in question_distribution(dog_and_fire, needs_audio=False)}
    audio = {q.text: q.answer for _, q in question_distribution(dog_and_fire, needs_audio=True)}
    assert vl["what color is the dog ?"] == "red"
    assert vl["where is the fire ?"] == "right"
    assert vl["how many things do you see ?"] == "two"
    assert vl["how many green things do you see ?"] == "zero"
    assert vl["which thing is blue ?"] == "fire"
    assert vl["do you see a clock ?"] == "no"
    assert audio["which sound do you hear ?"] == "fire"
    assert audio["what color is the thing you hear ?"] == "blue"
    assert audio["where is the thing you hear ?"] == "right"
    assert audio["do you hear a dog ?"] == "no"
    assert audio["does the sound come from the picture ?"] == "yes"


def test_questions_about_one_sounding_thing_are_not_asked_about_two() -> None:
    pair = scene(thing("dog"), thing("fire", "blue", 5), sources=frozenset({"dog", "fire"}))
    texts = {q.text for _, q in question_distribution(pair, needs_audio=True)}
    assert "which sound do you hear ?" not in texts
    assert "what color is the thing you hear ?" not in texts


def test_best_guess_is_right_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(1)
    claimed, right = [], []
    for _ in range(1500):
        drawn = draw_scene(rng)
        question = draw_question(rng, drawn, needs_audio=True)
        answer, p = best_guess(drawn, question)
        claimed.append(p)
        right.append(answer == question.answer)
    assert np.mean(right) == pytest.approx(np.mean(claimed), abs=0.04)
    assert 0.35 <= np.mean(claimed) <= 0.55


def test_no_fixed_answer_beats_the_best_guess() -> None:
    rng = np.random.default_rng(2)
    answers: Counter[str] = Counter()
    right = 0
    for _ in range(1500):
        drawn = draw_scene(rng)
        question = draw_question(rng, drawn, needs_audio=True)
        answers[question.answer] += 1
        right += best_guess(drawn, question)[0] == question.answer
    assert right > answers.most_common(1)[0][1]


def test_hearing_names_sources_in_a_fixed_order() -> None:
    assert hearing(frozenset({"rain", "dog"})) == "dog and rain"
    assert hearing(frozenset()) == "nothing"
