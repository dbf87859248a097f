from __future__ import annotations

import json
from dataclasses import replace

from supervised.stage_a.config import AudioCurriculumConfig, GuardConfig, LossConfig, StageAConfig
from supervised.stage_a.course import Course, Decision
from supervised.stage_a.stability import OutputFigures

CONFIG = StageAConfig(
    steps=100,
    gate_warmup_steps=20,
    eval_every=10,
    loss=LossConfig(distill=1.0, feature=0.0, weights="adaptive"),
    curriculum=AudioCurriculumConfig(shares=(0.5, 1.0), accuracy=0.7),
    guard=GuardConfig(max_drop=1.0, patience=9, breach=0.1),
)
BASE = {"audio_accuracy": 0.5, "retention_score": 0.8}
SAID = OutputFigures(100, 0.0, 0.0, 0.1)


def judge(course: Course, step: int, accuracy: float, drop: float = 0.0, said: OutputFigures = SAID) -> Decision:
    figures = {"audio_accuracy": accuracy, "retention_score": 0.8 - drop, "drop": drop}
    return course.judge(step, figures, BASE, said, SAID)


def test_while_the_gate_warms_up_only_the_best_step_counts() -> None:
    course = Course(CONFIG)
    bad = replace(SAID, empty=0.5)
    assert judge(course, 10, 0.9, drop=0.01, said=bad) == Decision("best")
    assert judge(course, 19, 0.5, drop=0.5, said=bad) == Decision("worse")
    assert course.loss_weights()["distill"] == 1.0
    assert judge(course, 20, 0.5, drop=0.5).verdict == "roll_back"


def test_a_roll_back_raises_what_holds_and_tells_so() -> None:
    course = Course(replace(CONFIG, loss=LossConfig(distill=2.0, feature=0.0)))
    judge(course, 30, 0.9)
    decision = judge(course, 40, 0.9, drop=0.2)
    assert decision == Decision("roll_back", told=["retention fell by 20.0 points: back to step 30; distill x 1.5"])
    assert course.loss_weights()["distill"] == 3.0
    alone = Course(
        replace(CONFIG, loss=LossConfig(distill=0.0, feature=0.0))
    )  # nothing holds, so nothing is held harder
    judge(alone, 30, 0.9)
    assert judge(alone, 40, 0.9, drop=0.2).told == ["retention fell by 20.0 points: back to step 30"]


def test_goals_that_are_missed_raise_weights_and_time_ends_a_stage() -> None:
    course = Course(CONFIG)
    assert judge(course, 30, 0.6) == Decision("best", told=["task x 1.2, audio accuracy is below its goal"])
    for _ in range(50):
        course.curriculum.observe_loss(1.0)
    decision = judge(course, 50, 0.65)
    assert (decision.verdict, decision.restricted) == ("best", True)
    assert decision.told[1] == "stage 1 of 2 ends: its time is up (audio accuracy 0.650 < 0.7)"


def test_patience_counts_within_a_stage_and_ends_the_run_in_the_last_one_only() -> None:
    course = Course(replace(CONFIG, guard=GuardConfig(max_drop=1.0, patience=2)))
    verdicts = [judge(course, step, accuracy) for step, accuracy in ((30, 0.6), (32, 0.5), (34, 0.5))]
    assert [decision.verdict for decision in verdicts] == ["best", "worse", "worse"]
    assert [decision.restricted for decision in verdicts] == [False, False, True]
    assert verdicts[2].told[-1].startswith("stage 1 of 2 ends: 2 evaluations without a better one (audio accuracy ")
    assert judge(course, 36, 0.5).verdict == "worse"
    assert course.reason == ""
    assert judge(course, 38, 0.5).verdict == "stop"
    assert course.reason == "2 evaluations without a better one"


def test_patience_that_runs_out_as_a_stage_ends_by_its_time_does_not_end_the_run() -> None:
    course = Course(replace(CONFIG, guard=GuardConfig(max_drop=1.0, patience=1)))
    judge(course, 30, 0.6)
    for _ in range(50):
        course.curriculum.observe_loss(1.0)
    decision = judge(course, 50, 0.5)
    assert (decision.verdict, decision.restricted, course.reason) == ("worse", True, "")
    assert decision.told[-1] == "stage 1 of 2 ends: its time is up (audio accuracy 0.500 < 0.7)"


def test_degenerate_answers_twice_in_a_row_end_the_run_and_say_why() -> None:
    course, bad = Course(CONFIG), replace(SAID, empty=0.5, looping=0.5)
    assert len(judge(course, 30, 0.9, said=bad).told) == 2
    assert course.reason == ""
    told = judge(course, 40, 0.9, said=bad).told
    assert course.reason == " ".join(told)
    assert course.reason.startswith("50.0% of the answers are empty")
    assert "50.0% of the answers repeat themselves" in course.reason


def test_a_course_goes_on_from_its_state() -> None:
    bad, courses = replace(SAID, empty=0.5), [Course(CONFIG), Course(CONFIG)]
    judge(courses[0], 30, 0.6, drop=0.05, said=bad)
    judge(courses[0], 40, 0.5, drop=0.2)
    judge(courses[0], 50, 0.5, drop=0.05, said=bad)
    state = json.loads(json.dumps(courses[0].get_state()))
    courses[1].set_state(state)
    assert courses[1].get_state() == state
    found = [judge(course, 60, 0.5, drop=0.2, said=bad) for course in courses]
    assert found[0] == found[1]
    assert courses[0].reason == courses[1].reason != ""
    assert courses[0].loss_weights() == courses[1].loss_weights()
