from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supervised.base import has_encoder
from supervised.data.sample import Sample
from supervised.prompts import answer_tokens
from supervised.safe_model import SafeModel
from supervised.stage_a.stability import OutputCounter, OutputFigures, OutputMonitor, loops, token_entropy

END = 9
BASE = OutputFigures(questions=200, empty=0.02, looping=0.0, entropy=0.3)


def flat(rows: int, words: int) -> torch.Tensor:
    """Logits over ten words of which so many are equally likely and the others impossible."""
    logits = torch.full((rows, 10), -math.inf)
    logits[:, :words] = 1.0
    return logits


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([4], False),
        ([4, 4], False),
        ([4, 4, 4], True),
        ([1, 4, 4, 4, 2], True),
        ([4, 4, 5, 4, 4], False),
        ([1, 2, 1, 2], False),
        ([1, 2, 1, 2, 1], False),
        ([1, 2, 1, 2, 1, 2], True),
        ([7, 1, 2, 3, 1, 2, 3, 1, 2, 3], True),
        ([7, 1, 2, 3, 1, 2, 3, 1, 2, 4], False),
    ],
)
def test_a_loop_is_a_block_that_stands_three_times_in_a_row(tokens: list[int], expected: bool) -> None:
    assert loops(tokens) is expected


@given(st.lists(st.integers(0, 2), max_size=14))
def test_loops_are_those_that_comparing_every_block_finds(tokens: list[int]) -> None:
    length = len(tokens)
    blocks = [(start, size) for size in range(1, length + 1) for start in range(length - 3 * size + 1)]
    expected = any(tokens[start : start + size] * 3 == tokens[start : start + 3 * size] for start, size in blocks)
    assert loops(tokens) == expected


def test_entropy_is_in_nats_and_impossible_words_have_none() -> None:
    assert token_entropy(flat(2, 4)).tolist() == pytest.approx([math.log(4)] * 2)
    assert token_entropy(flat(1, 1)).tolist() == [0.0]
    assert token_entropy(torch.tensor([[0.0, math.log(3)]])).tolist() == pytest.approx(
        [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    )
    assert token_entropy(flat(1, 4).bfloat16()).dtype == torch.float32


def test_figures_by_hand() -> None:
    counter = OutputCounter([END, 8])
    tokens = torch.tensor([[1, END, 0, 0, 0], [END, 0, 0, 0, 0], [3, 3, 3, 2, 2], [1, 2, 8, 8, 8]])
    logits = [flat(4, 2), flat(4, 4), flat(4, 1), flat(4, 1), flat(4, 8)]
    counter.add(["dog", " ", "a a a", "two words"], tokens, logits, torch.tensor([True, True, False, False]))
    # Rows that count: log 2 and log 4, up to the end token; log 2 alone.
    first = (math.log(2) + math.log(4)) / 2
    assert counter.figures() == OutputFigures(4, 0.25, 0.25, pytest.approx((first + math.log(2)) / 2))  # type: ignore[arg-type]
    counter.add(["red"], tokens[2:3, :1], [flat(1, 8)], torch.tensor([True]))
    assert counter.figures() == OutputFigures(  # a batch of one weighs as one
        5,
        0.2,
        0.2,
        pytest.approx((first + math.log(2) + math.log(8)) / 3),  # type: ignore[arg-type]
    )


def test_what_follows_the_end_of_an_answer_is_no_loop() -> None:
    counter = OutputCounter([END])
    counter.add(["dog"], torch.tensor([[1, END, END, END, END]]), [flat(1, 2)] * 5, torch.tensor([False]))
    assert counter.figures() == OutputFigures(1, 0.0, 0.0, None)


def test_no_questions_have_no_figures_to_warn_of() -> None:
    figures = OutputCounter([END]).figures()
    assert figures == OutputFigures(0, 0.0, 0.0, None)
    assert OutputMonitor().check(figures, figures) == []


@pytest.mark.parametrize(
    "figures",
    [
        BASE,
        replace(BASE, empty=0.0),
        replace(BASE, empty=0.07),
        replace(BASE, looping=0.05),
        replace(BASE, entropy=0.8),
        replace(BASE, entropy=0.0),
        replace(BASE, entropy=None),
        replace(BASE, questions=20, looping=0.10),  # two questions
    ],
)
def test_ordinary_differences_are_not_warned_of(figures: OutputFigures) -> None:
    assert OutputMonitor().check(figures, BASE) == []


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (replace(BASE, empty=0.08), "8.0% of the answers are empty, of the base's 2.0%; lower stage_a.fusion_lr, or "),
        (replace(BASE, looping=0.06), "6.0% of the answers repeat themselves, of the base's 0.0%; lower stage_a.fus"),
        (replace(BASE, questions=20, looping=0.15), "15.0% of the answers repeat themselves"),
        (
            replace(BASE, entropy=0.81),
            "on retention questions the answers have a mean entropy of 0.81 nats, the base's",
        ),
        (replace(BASE, entropy=math.nan), "on retention questions the answers have a mean entropy of nan nats"),
    ],
)
def test_degenerate_answers_are_warned_of_in_one_line(figures: OutputFigures, message: str) -> None:
    (line,) = OutputMonitor().check(figures, BASE)
    assert line.startswith(message)
    assert line.endswith(".")


def test_an_unsure_base_allows_half_of_its_entropy_either_way() -> None:
    unsure, monitor = replace(BASE, entropy=2.0), OutputMonitor()
    found = [bool(monitor.check(replace(BASE, entropy=entropy), unsure)) for entropy in (0.99, 1.0, 3.0, 3.01)]
    assert found == [True, False, False, True]


def test_two_evaluations_in_a_row_with_a_warning_end_a_run_and_one_between_does_not() -> None:
    bad, monitor = replace(BASE, empty=0.5, looping=0.5), OutputMonitor()
    stops = []
    for figures in (bad, BASE, bad, bad):
        monitor.check(figures, BASE)
        stops.append(monitor.stop)
    assert stops == [False, False, False, True]


def test_the_monitor_goes_on_from_its_state() -> None:
    bad, monitor = replace(BASE, empty=0.5), OutputMonitor()
    monitor.check(bad, BASE)
    resumed = OutputMonitor()
    resumed.set_state(json.loads(json.dumps(monitor.get_state())))
    assert not resumed.stop
    resumed.check(bad, BASE)
    assert resumed.stop


def test_a_model_that_was_made_to_loop_is_told_from_its_base(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    inputs = tiny_model.inputs(tiny_samples)
    retention = torch.ones(len(tiny_samples), dtype=torch.bool)
    (end,) = [tiny_model.processor.tokenizer.eos_token_id]

    def figures() -> OutputFigures:
        output = tiny_model.generate(inputs, max_new_tokens=8)
        counter = OutputCounter([end])
        tokens = answer_tokens(output.sequences, inputs, has_encoder(tiny_model.base))
        counter.add(tiny_model.decode(output, inputs), tokens, output.logits, retention)
        return counter.figures()

    def same_word(module: torch.nn.Module, args: object, logits: torch.Tensor) -> torch.Tensor:
        stuck = torch.zeros_like(logits)
        stuck[..., end + 1] = 99.0
        return stuck

    base = figures()
    assert base.questions == len(tiny_samples)
    assert base.entropy is not None
    handle = tiny_model.base.get_output_embeddings().register_forward_hook(same_word)
    try:
        stuck = figures()
    finally:
        handle.remove()
    assert stuck.looping == 1.0
    assert stuck.entropy == pytest.approx(0.0, abs=1e-6)
    lines = OutputMonitor().check(stuck, replace(base, looping=0.0))
    assert any("repeat themselves" in line for line in lines)
