from __future__ import annotations

import pytest
import torch

from supervised.data.sample import Sample
from supervised.safe_model import SafeModel
from supervised.stage_a import teacher as stage_a_teacher
from supervised.stage_a.examples import Examples
from supervised.stage_a.teacher import Teacher, head_inputs, pooled_states


@pytest.fixture
def examples(tiny_model: SafeModel, tiny_samples: list[Sample]) -> Examples:
    samples = [*tiny_samples, Sample("v2", "what is it ?", ("two red dog",), tiny_samples[0].image, None, "scenes-vl")]
    return Examples(tiny_model, samples, range(len(samples)), lambda _: None)


def test_the_teacher_tells_the_bases_logits_of_retention_questions_in_their_order(examples: Examples) -> None:
    batch = examples.batch([0, 5, 1, 6])
    with torch.no_grad():
        plain = examples.logits(batch, None, 0.0)
    logits, _ = Teacher(examples, [4, 5, 6])(batch)
    assert logits.shape == plain[[1, 3]].shape
    torch.testing.assert_close(logits[1], plain[3], rtol=1e-4, atol=1e-4)
    answer = len(examples.targets[5])
    torch.testing.assert_close(logits[0, :answer], plain[1, :answer], rtol=1e-4, atol=1e-4)
    assert not bool(logits[0, answer:].any())  # behind the end of a shorter answer


def test_the_teacher_tells_the_same_from_memory_and_on_demand(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = examples.batch([0, 4, 5])
    kept = Teacher(examples, [4, 5, 6])(batch)
    calls: list[int] = []
    hook = examples.model.base.register_forward_pre_hook(lambda *_: calls.append(1))
    assert torch.equal(Teacher(examples, [4, 5, 6])(batch)[0], kept[0])
    assert len(calls) == 1  # once for all of them
    monkeypatch.setattr(stage_a_teacher, "CACHE_BYTES", 0)
    teacher = Teacher(examples, [4, 5, 6])
    assert len(calls) == 1
    for found, expected in zip(teacher(batch), kept, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    hook.remove()


def test_a_batch_without_retention_questions_has_nothing_to_be_taught(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, passes = examples.batch([0, 1]), []
    kept = Teacher(examples, [4, 5, 6])
    monkeypatch.setattr(stage_a_teacher, "CACHE_BYTES", 0)
    hook = examples.model.base.register_forward_pre_hook(lambda *_: passes.append(1))
    # The base is asked as often as for any batch, since a base that is spread over processes needs all of them.
    for teacher, asked in ((kept, 0), (Teacher(examples, [4, 5, 6]), 1)):
        logits, states = teacher(batch)
        assert len(logits) == len(states) == 0
        assert len(passes) == asked
    hook.remove()


@torch.no_grad()
def test_pooled_states_are_what_the_head_reads_to_predict_the_answer(examples: Examples) -> None:
    base = examples.model.base
    batch = examples.batch([6, 4])
    with head_inputs(base) as seen:
        logits = examples.logits(batch, None, 0.0)
    assert len(seen) == 1
    pooled = pooled_states(base, seen, batch.labels)
    lengths = [len(examples.targets[row]) for row in (6, 4)]
    assert lengths[0] > lengths[1]
    head = base.get_output_embeddings()
    for row, length in enumerate(lengths):  # the head is linear: the mean of its outputs is its output of the mean
        torch.testing.assert_close(head(pooled[row]), logits[row, :length].mean(0), rtol=1e-4, atol=1e-4)


def test_no_hook_stays_behind(examples: Examples) -> None:
    head = examples.model.base.get_output_embeddings()
    before = len(head._forward_pre_hooks)
    with pytest.raises(RuntimeError, match="gone"), head_inputs(examples.model.base):
        raise RuntimeError("gone")
    assert len(head._forward_pre_hooks) == before
