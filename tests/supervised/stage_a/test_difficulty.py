from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.config import DataConfig
from supervised.data.facts import Facts, facts_of, text_hash
from supervised.data.importers.avqa import TYPES
from supervised.data.sample import Sample, Waveform
from supervised.demo.scenes import SoundScenes
from supervised.metrics.types import MUSIC_AVQA_TYPES
from supervised.stage_a.difficulty import difficulty, hops


def facts(*questions: tuple[str, float | None]) -> Facts:
    """Facts of questions told by type and seconds of their clips."""
    clips = [
        None if length is None else Waveform(np.zeros(int(1000 * length), np.float32), 1000) for _, length in questions
    ]
    return facts_of(
        Sample(f"q-{place}", "?", ("a",), audio=clip, type=kind)
        for place, ((kind, _), clip) in enumerate(zip(questions, clips, strict=True))
    )


def test_hops_of_the_types_that_datasets_write() -> None:
    music = {kind: hops(kind) for kind in MUSIC_AVQA_TYPES}
    assert music == {
        "Audio/Counting": 2,
        "Audio/Comparative": 3,
        "Visual/Counting": 2,
        "Visual/Location": 2,
        "Audio-Visual/Existential": 1,
        "Audio-Visual/Counting": 2,
        "Audio-Visual/Location": 2,
        "Audio-Visual/Comparative": 3,
        "Audio-Visual/Temporal": 3,
    }
    assert [hops(kind) for kind in TYPES] == [1, 2, 1, 2, 3, 3, 3, 2]
    assert [hops(f"Audio/{kind}") for kind in TYPES] == [hops(kind) for kind in TYPES]
    found = [hops(kind) for kind in ("Sound/open", "Sound/yes_no", "Caption/open", "Caption/yes_no", "Dialogue")]
    assert found == [1, 1, 3, 1, 3]
    assert [hops(kind) for kind in ("audio/count", "audio/any", "av/color", "av/source")] == [1, 1, 2, 2]
    assert [hops(kind) for kind in ("", "Speech/open", "Audio", "Audio/Colour")] == [None] * 4


def test_every_sound_scene_that_needs_audio_has_hops() -> None:
    scenes = SoundScenes(DataConfig(adapter=200), "adapter")
    kinds = {question.type for _, question in map(scenes.scene_and_question, range(200)) if question.needs_audio}
    assert len(kinds) == 7
    assert all(hops(kind) == (1 if kind.startswith("audio/") else 2) for kind in kinds)


def test_difficulty_by_hand() -> None:
    found = facts(
        ("Audio/Comparative", 4.0),  # hops 5/6, length 7/8
        ("Audio/Counting", 1.0),  # 3/6, 1/8
        ("Audio-Visual/Existential", 3.0),  # 1/6, 5/8
        ("colours", 2.0),  # unknown: 1/2, 3/8
    )
    # Sums: 1.708, 0.625, 0.792, 0.875.
    assert difficulty(found, np.arange(4)).tolist() == [0.75, 0.0, 0.25, 0.5]


def test_only_the_rows_that_are_asked_for_count() -> None:
    found = facts(("Audio/Temporal", 1.0), ("Audio/Counting", 9.0), ("Audio/Counting", 5.0), ("Audio/Existential", 7.0))
    assert difficulty(found, np.array([1, 2])).tolist() == [0.5, 0.0]


def test_an_unknown_length_is_neither_long_nor_short() -> None:
    found = facts(("Audio/Counting", 1.0), ("Audio/Counting", None), ("Audio/Counting", 9.0))
    assert difficulty(found, np.arange(3)).tolist() == [0.0, 1 / 3, 2 / 3]


def test_questions_that_are_equally_hard_follow_the_hashes_of_their_ids() -> None:
    found = facts(*[("Audio/Counting", None)] * 6)
    expected = sorted(range(6), key=lambda place: text_hash(f"q-{place}"))
    assert expected != list(range(6))
    assert np.argsort(difficulty(found, np.arange(6))).tolist() == expected


@settings(deadline=None)
@given(
    questions=st.lists(
        st.tuples(st.sampled_from([*MUSIC_AVQA_TYPES, "av/color", "", "odd"]), st.sampled_from([None, 0.5, 1.0, 3.0])),
        min_size=1,
        max_size=30,
    ),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 3),
)
def test_a_share_is_that_many_rounded_up_nested_and_of_any_order_the_same(
    questions: list[tuple[str, float | None]], share: float, seed: int
) -> None:
    found, rows = facts(*questions), np.arange(len(questions))
    ranks = difficulty(found, rows)
    assert sorted(ranks.tolist()) == pytest.approx([place / len(rows) for place in range(len(rows))])
    count = (ranks < share).sum()
    assert share * len(rows) - 1e-9 <= count < share * len(rows) + 1
    order = np.random.default_rng(seed).permutation(len(rows))
    np.testing.assert_array_equal(difficulty(found, rows[order]), ranks[order])
    np.testing.assert_array_equal(difficulty(found.rows(order), rows), ranks[order])


def test_no_rows_have_no_difficulty() -> None:
    assert difficulty(facts(("", None)), np.zeros(0, np.int64)).tolist() == []


def test_a_length_that_is_known_for_one_question_only_changes_nothing() -> None:
    plain = facts(*[("Audio/Counting", None)] * 5)
    one = replace(plain, seconds=np.array([np.nan, np.nan, 600.0, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(difficulty(one, np.arange(5)), difficulty(plain, np.arange(5)))
