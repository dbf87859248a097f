from __future__ import annotations

from math import log

import pytest
import torch

from supervised.diagnostics.attention_probe import Probe, figures, probe
from supervised.diagnostics.recording import Attended, Fused
from supervised.fusion.parts import Sound


def fused(key: torch.Tensor, query: torch.Tensor, mask: torch.Tensor, hears: torch.Tensor) -> Fused:
    attended = Attended(query, key, 1, Sound(key, mask))
    return Fused(query, query, hears, 1.0, 0, attended, None)


def of_two_questions() -> Fused:
    """Question 0 looks at all four tokens evenly, question 1 at audio token 2 alone; its first position is deaf."""
    key = torch.zeros(2, 4, 4)
    key[1, 2, 0] = 1.0
    query = torch.zeros(2, 3, 4)
    query[1, :, 0] = 60.0  # a score of 60 / sqrt(4) = 30
    hears = torch.tensor([[True, True, True], [False, True, True]])
    return fused(key, query, torch.ones(2, 4, dtype=torch.bool), hears)


def test_mass_and_entropy_are_those_computed_by_hand() -> None:
    seen = probe(of_two_questions())
    assert seen.mass.tolist() == pytest.approx([0.5, 1.0])  # two of four tokens; the one audio token
    assert seen.answer_mass.tolist() == pytest.approx([0.5, 1.0])
    assert seen.tokens[0, 0].tolist() == pytest.approx([0.25] * 4)
    assert seen.tokens[1, 0].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-9)
    assert seen.entropy[0, 0, -3:].tolist() == pytest.approx([log(4)] * 3)
    assert seen.entropy[1, 0, -3:].tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert seen.heard[:, -4:].tolist() == [[False, True, True, True], [False, False, True, True]]


def test_figures_tell_supervised_from_retention_questions() -> None:
    told = figures(probe(of_two_questions()), torch.tensor([True, False]))
    assert told["audio_mass_supervised"] == pytest.approx(1.0)
    assert told["audio_mass_retention"] == pytest.approx(0.5)
    assert told["audio_mass"] == pytest.approx(0.75)
    assert told["marker_mass"] == pytest.approx(0.25)
    assert told["entropy_limit"] == pytest.approx(log(4))
    # Five positions hear: three of question 0 with log 4, two of question 1 with 0.
    assert told["entropy_per_head"] == pytest.approx([3 * log(4) / 5])
    assert told["entropy_per_head_and_token"][0] == pytest.approx([log(4), log(4) / 2, log(4) / 2], abs=1e-6)


def test_masked_tokens_have_no_share() -> None:
    given = of_two_questions()
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    seen = probe(fused(given.attended.key, given.attended.query, mask, given.hears))
    assert seen.tokens[0, 0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert seen.open.tolist() == [3, 4]


def test_batches_are_joined_question_by_question() -> None:
    seen = probe(of_two_questions())
    both = Probe.concatenate([seen, seen])
    assert len(both) == 4
    assert both.mass.tolist() == pytest.approx([0.5, 1.0, 0.5, 1.0])
