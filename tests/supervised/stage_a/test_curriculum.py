from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.data.facts import facts_of
from supervised.data.mixture import MixtureSampler
from supervised.data.sample import Sample, Waveform
from supervised.stage_a.config import AudioCurriculumConfig
from supervised.stage_a.curriculum import Curriculum
from supervised.stage_a.difficulty import difficulty

FOUR = AudioCurriculumConfig(shares=(0.25, 0.5, 0.75, 1.0))
BASE = {"retention_score": 0.8, "audio_accuracy": 0.5}
GOOD = {"retention_score": 0.76, "audio_accuracy": 0.7}  # just the goals: 0.95 * 0.8 and 0.7


def after(losses: list[float], steps: int = 400) -> Curriculum:
    """A curriculum of four stages with windows of 10 steps, after those losses."""
    curriculum = Curriculum(FOUR, steps)
    for loss in losses:
        curriculum.observe_loss(loss)
    return curriculum


def test_a_stage_whose_goals_are_met_ends() -> None:
    curriculum = after([1.0] * 50)
    assert (curriculum.share, curriculum.stage, curriculum.stages) == (0.25, 0, 4)
    assert curriculum.judge(GOOD, BASE)
    assert (curriculum.share, curriculum.stage) == (0.5, 1)
    assert curriculum.reason == "stage 1 of 4 ends: its goals are met"


@pytest.mark.parametrize(
    ("figures", "losses"),
    [
        (GOOD | {"retention_score": 0.7599}, [1.0] * 50),
        (GOOD | {"audio_accuracy": 0.6999}, [1.0] * 50),
        (GOOD, [1.0] * 49),
        (GOOD, [1.0] * 40 + [2.0] * 10),
    ],
)
def test_each_missed_goal_keeps_a_stage(figures: dict[str, float], losses: list[float]) -> None:
    curriculum = after(losses)
    assert not curriculum.judge(figures, BASE)
    assert (curriculum.stage, curriculum.reason) == (0, "")


def test_variation_by_hand() -> None:
    # Means of windows: 1, 1, 1, 1, 2; their mean 1.2, their variance (4 * 0.04 + 0.64) / 5 = 0.16.
    assert after([1.0] * 40 + [2.0] * 10).variation == pytest.approx(0.4 / 1.2)
    # Only the latest five whole windows count, and what happens within a window does not.
    assert after([9.0] * 10 + [1.0, 3.0] * 25 + [7.0] * 9).variation == 0
    assert after([1.0] * 49).variation is None
    assert after([0.0] * 50).variation == 0
    assert after([1.0] * 30 + [-1.0] * 20).variation == pytest.approx(math.sqrt(0.96) / 0.2)
    assert after([-1.0] * 40 + [1.0] * 10).variation == math.inf


def test_a_stage_whose_time_is_up_ends_all_the_same_and_says_so() -> None:
    bad = {"retention_score": 0.5, "audio_accuracy": 0.6}
    curriculum = after([1.0] * 40 + [2.0] * 59)
    assert not curriculum.judge(bad, BASE)
    curriculum.observe_loss(2.0)
    assert curriculum.judge(bad, BASE)
    assert curriculum.reason == (
        "stage 1 of 4 ends: its time is up (retention score 0.500 < 0.760; audio accuracy 0.600 < 0.7)"
    )
    assert not curriculum.judge(bad, BASE)
    assert curriculum.reason == ""
    for loss in [1.0] * 60 + [2.0] * 40:
        curriculum.observe_loss(loss)
    assert curriculum.judge(GOOD, BASE)
    # Means 1, 2, 2, 2, 2: their mean is 1.8, their deviation 0.4.
    assert curriculum.reason == "stage 2 of 4 ends: its time is up (loss variation 0.222 > 0.1)"


def test_a_stage_of_which_nothing_more_is_expected_ends_before_its_time() -> None:
    curriculum = after([1.0] * 50)
    assert curriculum.judge(GOOD | {"audio_accuracy": 0.6}, BASE, "3 evaluations in vain")
    assert curriculum.reason == "stage 1 of 4 ends: 3 evaluations in vain (audio accuracy 0.600 < 0.7)"
    for _ in range(50):
        curriculum.observe_loss(1.0)
    assert curriculum.judge(GOOD, BASE, "3 evaluations in vain")
    assert curriculum.reason == "stage 2 of 4 ends: its goals are met"


def test_the_last_stage_has_its_share_of_the_steps_whatever_happens() -> None:
    curriculum, stages = Curriculum(FOUR, 400), []
    for step in range(1, 401):
        curriculum.observe_loss(float(step))
        if step % 20 == 0:
            curriculum.judge({"retention_score": 0.0, "audio_accuracy": 0.0}, BASE)
        stages.append(curriculum.stage)
    assert [stages.count(stage) for stage in range(4)] == [99, 100, 100, 101]


def test_a_stage_that_follows_an_early_one_has_the_time_that_was_left() -> None:
    curriculum = after([1.0] * 50)
    assert curriculum.judge(GOOD, BASE)
    for _ in range(149):
        curriculum.observe_loss(1.0)
    bad = GOOD | {"audio_accuracy": 0.0}
    assert not curriculum.judge(bad, BASE)
    curriculum.observe_loss(1.0)
    assert curriculum.judge(bad, BASE)


def test_windows_begin_anew_with_a_stage() -> None:
    curriculum = after([1.0] * 55)
    assert curriculum.judge(GOOD, BASE)
    assert curriculum.variation is None
    for _ in range(50):  # of two halves of a window, the older one is forgotten too
        curriculum.observe_loss(3.0)
    assert curriculum.variation == 0


def test_the_last_stage_never_ends_and_without_shares_it_is_the_only_one() -> None:
    curriculum = Curriculum(AudioCurriculumConfig(), 10)
    for _ in range(10):
        curriculum.observe_loss(1.0)
    assert not curriculum.judge(GOOD, BASE)
    assert (curriculum.share, curriculum.stages) == (1.0, 1)


@settings(deadline=None)
@given(
    losses=st.lists(st.floats(0, 10), min_size=1, max_size=120),
    accuracies=st.lists(st.floats(0, 1), min_size=12, max_size=12),
    stop=st.integers(0, 120),
)
def test_a_curriculum_goes_on_bit_for_bit_from_its_state(
    losses: list[float], accuracies: list[float], stop: int
) -> None:
    whole, resumed = Curriculum(FOUR, 120), Curriculum(FOUR, 120)
    for step, loss in enumerate(losses):
        if step == stop:
            state = json.loads(json.dumps(resumed.get_state()))
            resumed = Curriculum(FOUR, 120)
            resumed.set_state(state)
        for each in (whole, resumed):
            each.observe_loss(loss)
        if step % 10 == 9:
            figures = GOOD | {"audio_accuracy": accuracies[step // 10]}
            assert whole.judge(figures, BASE) == resumed.judge(figures, BASE)
            assert whole.reason == resumed.reason
        assert whole.get_state() == resumed.get_state()
        assert whole.variation == resumed.variation


def test_stages_draw_easy_questions_first_and_all_of_them_in_the_end() -> None:
    clip = Waveform(np.zeros(8, np.float32), 1000)
    kinds = ["Audio/Comparative", "Audio/Counting", "Audio-Visual/Existential", "Audio-Visual/Existential"] * 4
    samples = [Sample(f"music-{i}", "?", ("a",), audio=clip, type=kind) for i, kind in enumerate(kinds)]
    samples += [Sample(f"vqa-{i}", "?", ("a",), audio=clip, retention_set="vqa") for i in range(20)]
    facts = facts_of(samples)
    sampler, curriculum = MixtureSampler(facts, 16, 0.5), Curriculum(FOUR, 40)
    ranks, drawn = difficulty(facts, sampler.audio_rows), []
    for _ in range(4):
        share = curriculum.share
        sampler.restrict(0.5 * share, sampler.audio_rows[ranks < share])
        rows = np.concatenate([sampler.draw() for _ in range(10)])
        drawn.append({row for row in rows.tolist() if not facts.retention[row]})
        assert (~facts.retention[rows]).sum() == 80 * share
        for _ in range(10):
            curriculum.observe_loss(1.0)
        curriculum.judge(GOOD, BASE)
    assert [len(rows) for rows in drawn] == [4, 8, 12, 16]
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
    assert {samples[row].type for row in drawn[1]} == {"Audio-Visual/Existential"}
    assert {samples[row].type for row in drawn[2]} == {"Audio-Visual/Existential", "Audio/Counting"}
