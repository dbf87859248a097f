from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.data.facts import Facts
from supervised.data.mixture import MixtureSampler, hold_out
from supervised.errors import CheckpointError, ConfigError, DataError

SIZES = {"music": 60, "avqa": 20, "vqav2": 90, "gqa": 10}
RETENTION = ("vqav2", "gqa")


def make(sizes: dict[str, int] = SIZES, per_group: int = 2, clips: float = 1.0) -> Facts:
    codes = np.repeat(np.arange(len(sizes)), list(sizes.values())).astype(np.int32)
    count = len(codes)
    return Facts(
        tuple(sizes),
        codes,
        np.isin(codes, [place for place, name in enumerate(sizes) if name in RETENTION]),
        np.arange(count) % 10 < 10 * clips,
        (np.arange(count) // per_group).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        np.zeros(count, np.uint8),
        ("",),
        np.zeros(count, np.int32),
        np.full(count, np.nan, np.float32),
        np.arange(count).astype(np.uint64),
    )


def names(facts: Facts, rows: np.ndarray) -> Counter[str]:
    return Counter(facts.sets[code] for code in facts.codes[rows])


@settings(deadline=None)
@given(
    batch=st.integers(1, 40), share=st.sampled_from([0.0, 0.1, 1 / 3, 0.35, 0.5, 0.9, 1.0]), count=st.integers(1, 30)
)
def test_the_share_holds_in_every_batch_up_to_a_question_and_exactly_in_the_long_run(
    batch: int, share: float, count: int
) -> None:
    facts = make()
    sampler = MixtureSampler(facts, batch, share)
    total = 0
    for number in range(1, count + 1):
        rows = sampler.draw()
        assert rows.shape == (batch,)
        audio = int((~facts.retention[rows]).sum())
        assert abs(audio - share * batch) < 1 + 1e-6
        total += audio
        assert total == int(number * share * batch + 1e-6)


def test_half_of_every_even_batch_needs_audio() -> None:
    facts = make()
    sampler = MixtureSampler(facts, 8)
    for _ in range(50):
        assert facts.retention[sampler.draw()].tolist() == [False] * 4 + [True] * 4


def test_an_epoch_shows_each_question_once_and_the_next_one_in_another_order() -> None:
    facts = make()
    sampler = MixtureSampler(facts, 20)
    drawn = np.concatenate([sampler.draw() for _ in range(16)])
    audio = drawn[~facts.retention[drawn]]  # 160 draws of 80 questions
    assert sorted(audio[:80].tolist()) == sorted(audio[80:].tolist()) == list(range(80))
    assert audio[:80].tolist() != audio[80:].tolist()


def test_without_weights_sets_are_drawn_by_their_size() -> None:
    facts = make()
    sampler = MixtureSampler(facts, 20)
    drawn = names(facts, np.concatenate([sampler.draw() for _ in range(40)]))
    assert drawn == {"music": 300, "avqa": 100, "vqav2": 360, "gqa": 40}


def test_weights_draw_a_set_more_often_among_those_of_its_kind() -> None:
    facts = make()
    sampler = MixtureSampler(facts, 20, weights={"avqa": 3.0, "gqa": 0.0})  # 60 to 60, and 90 to 0
    drawn = names(facts, np.concatenate([sampler.draw() for _ in range(40)]))
    assert drawn == {"music": 200, "avqa": 200, "vqav2": 400}
    for _ in range(20):
        counts = names(facts, sampler.draw())
        assert counts["music"] == counts["avqa"] == 5


@settings(deadline=None, max_examples=50)
@given(
    before=st.integers(0, 30),
    after=st.integers(1, 30),
    batch=st.integers(1, 33),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
def test_a_sampler_goes_on_from_its_state(before: int, after: int, batch: int, share: float, seed: int) -> None:
    facts = make()
    whole, stopped = (MixtureSampler(facts, batch, share, {"music": 0.3}, seed) for _ in range(2))
    for _ in range(before):
        whole.draw()
        stopped.draw()
    resumed = MixtureSampler(facts, batch, share, {"music": 0.3}, seed)
    resumed.set_state(json.loads(json.dumps(stopped.get_state())))
    for _ in range(after):
        np.testing.assert_array_equal(resumed.draw(), whole.draw())


def test_seeds_shuffle_differently() -> None:
    facts = make()
    first, same, other = (MixtureSampler(facts, 16, seed=seed).draw().tolist() for seed in (1, 1, 2))
    assert first == same != other


def test_only_usable_questions_are_drawn() -> None:
    facts = make(clips=0.7)
    drawn = np.concatenate([sampler.draw() for sampler in [MixtureSampler(facts, 20)] for _ in range(30)])
    assert facts.has_audio[drawn].all()
    usable = np.flatnonzero(facts.codes == 0)[:5].tolist() + np.flatnonzero(facts.codes == 2)[:3].tolist()
    drawn = np.concatenate(
        [sampler.draw() for sampler in [MixtureSampler(facts, 4, usable=np.array(usable))] for _ in range(30)]
    )
    assert set(drawn.tolist()) == set(usable)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_share": 1.5}, r"the audio share must lie between 0 and 1, got 1\.5"),
        ({"batch_size": 0}, "the batch size must be at least 1, got 0"),
        ({"seed": -1}, "the seed must not be below 0, got -1"),
        ({"weights": {"gqq": 1.0}}, r"weights name the sets \['gqq'\]; there are: music, avqa, vqav2, gqa"),
        ({"weights": {"gqa": -1.0}}, r"weights must be 0 or more and finite, got \{'gqa': -1\.0\}"),
        ({"weights": {"gqa": float("nan")}}, "weights must be 0 or more and finite"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"batch_size": 4, **options}
    with pytest.raises(ConfigError, match=message):
        MixtureSampler(make(), **given)


def test_a_kind_without_questions_is_refused_unless_the_share_asks_for_none() -> None:
    facts = make({"music": 5})
    with pytest.raises(DataError, match="no retention question with a clip and a weight above 0, but 50 % of a batch"):
        MixtureSampler(facts, 4)
    assert sorted(MixtureSampler(facts, 5, 1.0).draw().tolist()) == list(range(5))
    with pytest.raises(DataError, match="no audio question"):
        MixtureSampler(make(), 4, weights={"music": 0, "avqa": 0})


def test_the_state_of_other_data_is_refused() -> None:
    state = MixtureSampler(make(), 4).get_state()
    with pytest.raises(
        CheckpointError, match="state is of 10 questions of the set gqa, here are 9; resume with the data"
    ):
        MixtureSampler(make(SIZES | {"gqa": 9}), 4).set_state(state)
    with pytest.raises(CheckpointError, match=r"of the sets \['vqav2', 'gqa'\], here are \['vqav2'\]"):
        MixtureSampler(make(), 4, weights={"gqa": 0}).set_state(state)


def test_a_restricted_sampler_draws_the_rows_and_the_share_that_it_is_told() -> None:
    facts = make()
    sampler = MixtureSampler(facts, 20, 0.5, {"avqa": 0.0})
    assert sampler.audio_rows.tolist() == list(range(60))
    sampler.draw()
    sampler.restrict(0.2, np.array([7, 3, 5, 1]))
    drawn = [sampler.draw() for _ in range(6)]
    assert all((~facts.retention[rows]).sum() == 4 for rows in drawn)
    assert all(sorted(rows[:4].tolist()) == [1, 3, 5, 7] for rows in drawn)  # whole epochs of four
    sampler.restrict(0.5, sampler.audio_rows)
    drawn = [sampler.draw()[:10] for _ in range(6)]
    assert sorted(np.concatenate(drawn).tolist()) == list(range(60))


def test_restricted_sets_are_drawn_by_the_size_that_is_left_of_them() -> None:
    facts = make()  # rows of music: 0 to 59, of avqa: 60 to 79
    sampler = MixtureSampler(facts, 8, 0.5)
    sampler.restrict(0.5, np.r_[0:5, 60:75])
    assert names(facts, np.concatenate([sampler.draw() for _ in range(10)])) == {
        "music": 10,
        "avqa": 30,
        "vqav2": 36,
        "gqa": 4,
    }
    sampler.restrict(0.5, np.arange(60, 80))  # a set may have nothing left, and come back
    assert names(facts, np.concatenate([sampler.draw()[:4] for _ in range(5)])) == {"avqa": 20}
    sampler.restrict(0.5, sampler.audio_rows)
    assert names(facts, np.concatenate([sampler.draw()[:4] for _ in range(20)])) == {"music": 60, "avqa": 20}


def test_what_a_restriction_leaves_as_it_was_goes_on_in_its_epoch() -> None:
    facts = make()
    plain, restricted = MixtureSampler(facts, 8), MixtureSampler(facts, 8)
    for _ in range(3):
        plain.draw()
        restricted.draw()
    restricted.restrict(0.5, restricted.audio_rows)
    np.testing.assert_array_equal(restricted.draw(), plain.draw())
    restricted.restrict(0.5, np.r_[0:10, 60:80])
    after, expected = (np.concatenate([each.draw() for _ in range(5)]) for each in (restricted, plain))
    retention = facts.retention[after]
    np.testing.assert_array_equal(after[retention], expected[facts.retention[expected]])
    avqa = [rows[facts.codes[rows] == 1].tolist() for rows in (after, expected)]
    assert avqa[0][: len(avqa[1])] == avqa[1]


@settings(deadline=None, max_examples=50)
@given(
    stages=st.lists(st.tuples(st.floats(0.05, 0.95), st.sets(st.integers(0, 79), min_size=1)), min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    batch=st.integers(1, 17),
    stop=st.integers(0, 30),
)
def test_a_sampler_goes_on_from_its_state_across_changes_of_stage(
    stages: list[tuple[float, set[int]]], steps: list[int], batch: int, stop: int
) -> None:
    facts = make()
    walk = [(place, number) for place in range(len(stages)) for number in range(steps[place])]

    def rows(place: int) -> tuple[float, np.ndarray]:
        return stages[place][0], np.array(sorted(stages[place][1]))

    whole, resumed = MixtureSampler(facts, batch), MixtureSampler(facts, batch)
    expected, found = [], []
    stage = None
    for place, _ in walk:
        if place != stage:
            whole.restrict(*rows(place))
            stage = place
        expected.append(whole.draw().tolist())
    stage = None
    for count, (place, _) in enumerate(walk):
        if count == stop:  # a new process knows the stage and the state, not what was before
            state = json.loads(json.dumps(resumed.get_state()))
            resumed = MixtureSampler(facts, batch)
            if stage is not None:
                resumed.restrict(*rows(stage))
            resumed.set_state(state)
        if place != stage:
            resumed.restrict(*rows(place))
            stage = place
        found.append(resumed.draw().tolist())
    assert found == expected


@pytest.mark.parametrize(
    ("share", "rows", "error", "message"),
    [
        (1.5, [0], ConfigError, r"the audio share must lie between 0 and 1, got 1\.5"),
        (0.5, [0, 80], DataError, "1 of 2 rows are none that the sampler may draw; give rows of its own"),
        (0.5, [], DataError, "there is no audio question with a clip and a weight above 0, but 50 % of a batch"),
    ],
)
def test_a_restriction_that_cannot_be_kept_is_refused(
    share: float, rows: list[int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MixtureSampler(make(), 4).restrict(share, np.array(rows))


def test_the_state_of_another_restriction_is_refused() -> None:
    sampler = MixtureSampler(make(), 4)
    sampler.restrict(0.5, np.arange(30))
    with pytest.raises(CheckpointError, match="state is of 30 questions of the set music, here are 60"):
        MixtureSampler(make(), 4).set_state(sampler.get_state())


@settings(deadline=None)
@given(count=st.integers(0, 60), seed=st.integers(0, 5), per_group=st.integers(1, 7))
def test_what_is_held_out_shares_no_group_with_what_is_trained_on(count: int, seed: int, per_group: int) -> None:
    facts = make({"vqav2": 50, "music": 60, "gqa": 40}, per_group)
    held, rest = hold_out(facts, count, seed)
    assert count <= len(held) < count + per_group
    assert facts.retention[held].all()
    assert not set(facts.groups[held]) & set(facts.groups[rest])
    assert set(held.tolist()) <= set(range(150)) - set(rest.tolist())
    outside = sorted(set(range(150)) - set(held.tolist()) - set(rest.tolist()))
    assert not facts.retention[outside].any()  # audio questions about pictures that are held out
    assert set(facts.groups[outside]) <= set(facts.groups[held])


def test_holding_out_depends_on_names_and_seed_and_not_on_the_order() -> None:
    facts = make({"vqav2": 200, "music": 100})
    order = np.random.default_rng(0).permutation(300)
    held, _ = hold_out(facts, 50)
    shuffled, _ = hold_out(facts.rows(order), 50)
    assert sorted(order[shuffled].tolist()) == held.tolist()
    assert hold_out(facts, 50, seed=1)[0].tolist() != held.tolist()


def test_more_held_out_groups_contain_fewer() -> None:
    facts = make({"vqav2": 200, "music": 100})
    few, many = (set(hold_out(facts, count)[0].tolist()) for count in (20, 80))
    assert few < many


def test_more_than_there_is_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="101 retention questions are to be held out, there are 100; ask for fewer"):
        hold_out(make(), 101)
    with pytest.raises(DataError, match="holding out 10 retention questions takes every group"):
        hold_out(make({"vqav2": 10}), 10)
