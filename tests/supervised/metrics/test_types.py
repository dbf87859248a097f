from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from supervised.errors import DataError
from supervised.metrics.types import MUSIC_AVQA_TYPES, accuracy_by_type, music_avqa_accuracy

REAL = Path(__file__).parents[4] / "shared" / "data" / "music_avqa" / "avqa-test.json"


def test_families_and_the_whole_are_micro_averages() -> None:
    found = accuracy_by_type([1, 0, 0.5, 1], ["B/x", "A/x", "B/y", "B/y"])
    assert found.overall == 0.625
    assert found.families == {"A": 0.0, "B": pytest.approx(2.5 / 3)}
    assert found.types == {"A/x": 0.0, "B/x": 1.0, "B/y": 0.75}
    assert found.counts == {"A/x": 1, "B/x": 1, "B/y": 2}


def test_one_type_per_score_is_needed() -> None:
    for scores in ([], [1.0]):
        with pytest.raises(DataError, match=rf"one type per score, got {len(scores)} scores and 0 types"):
            accuracy_by_type(scores, [])


def test_predictions_are_judged_as_they_are_and_put_into_classes() -> None:
    types = ["Audio/Counting", "Audio/Counting", "Visual/Location"]
    found = music_avqa_accuracy(["2", "Two.", "the piano"], ["two", "two", "violin"], types, ["two", "violin", "piano"])
    assert found["strict"].types == {"Audio/Counting": 0.5, "Visual/Location": 0.0}
    assert found["mapped"].types == {"Audio/Counting": 1.0, "Visual/Location": 0.0}


def test_a_type_of_another_data_set_is_refused() -> None:
    with pytest.raises(DataError, match=r"types \['Smell/Counting'\] are not of MUSIC-AVQA; allowed: Audio/Counting"):
        music_avqa_accuracy(["a"], ["a"], ["Smell/Counting"], ["a"])
    with pytest.raises(DataError, match="got 1 predictions, 2 answers and 1 types"):
        music_avqa_accuracy(["a"], ["a", "b"], ["Audio/Counting"], ["a"])


@pytest.mark.skipif(not REAL.is_file(), reason="needs MUSIC-AVQA's test annotations")
def test_the_nine_types_of_the_real_test_set_are_counted_as_published() -> None:
    rows = json.loads(REAL.read_text(encoding="utf-8"))
    types = ["/".join(json.loads(row["type"])) for row in rows]
    answers = [row["anser"] for row in rows]
    found = music_avqa_accuracy(["yes"] * len(rows), answers, types, sorted(set(answers)))["strict"]
    assert set(found.counts) == set(MUSIC_AVQA_TYPES)
    assert (found.counts["Audio/Counting"], found.counts["Audio-Visual/Temporal"]) == (1_017, 822)
    assert found.overall == Counter(answers)["yes"] / 9_129 == 2_387 / 9_129
    audio_visual = [answer for answer, kind in zip(answers, types, strict=True) if kind.startswith("Audio-Visual/")]
    assert found.families["Audio-Visual"] == pytest.approx(audio_visual.count("yes") / len(audio_visual))
    assert music_avqa_accuracy(answers, answers, types, sorted(set(answers)))["mapped"].overall == 1.0
