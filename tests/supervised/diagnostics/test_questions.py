from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from supervised.data.sample import Sample
from supervised.diagnostics.questions import answer_length, ask, draw
from supervised.errors import DataError
from supervised.safe_model import SafeModel


def ids(batches: list) -> list[str]:
    return [sample.id for batch in batches for sample in batch.samples]


def test_draws_are_random_fixed_by_their_seed_and_have_clips(quiet: SafeModel, samples: list[Sample]) -> None:
    silent = replace(samples[0], id="silent", audio=None)
    drawn = draw(quiet, [silent, *samples], 12, 5, 0)
    assert [len(batch.samples) for batch in drawn] == [5, 5, 2]
    assert ids(drawn) == ids(draw(quiet, [silent, *samples], 12, 5, 0))
    assert ids(drawn) != ids(draw(quiet, [silent, *samples], 12, 5, 1))
    assert len(set(ids(drawn))) == 12
    assert all("silent" not in ids(draw(quiet, [silent, *samples], 17, 5, seed)) for seed in range(3))


def test_too_few_questions_of_a_kind_are_refused(quiet: SafeModel, samples: list[Sample]) -> None:
    few = [sample for sample in samples if sample.retention_set is None] + samples[1:6:2]
    with pytest.raises(DataError, match=r"need none \(retention_set\), got 3 among 11; add some"):
        draw(quiet, few, 16, 8, 0)


def test_the_longest_accepted_answer_counts(quiet: SafeModel, samples: list[Sample]) -> None:
    longer = replace(samples[0], answers=("one two three",))
    assert answer_length(quiet, [ask(quiet, [samples[1], longer])]) == 4


def test_a_broken_medium_is_told_with_its_question(quiet: SafeModel, samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sample 'a0': .*gone\.wav"):
        ask(quiet, [replace(samples[0], audio=tmp_path / "gone.wav")])
