from __future__ import annotations

import math

import pytest
import torch

from supervised.losses import IGNORED, distillation_loss, task_loss


def test_task_loss_averages_over_answer_tokens_of_the_whole_batch() -> None:
    # Row 0: two tokens with probability 1/2 and 1/4; row 1: one token with probability 1/8 and one ignored position.
    probabilities = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.125, 0.875], [0.9, 0.1]]])
    labels = torch.tensor([[0, 0], [0, IGNORED]])
    loss = task_loss(probabilities.log(), labels)
    # (ln 2 + ln 4 + ln 8) / 3 = 2 ln 2; a mean of row means would give (1.5 + 3) / 2 ln 2 = 2.25 ln 2.
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_task_loss_is_zero_and_has_a_gradient_when_no_position_counts() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = task_loss(logits, torch.full((2, 3), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_task_loss_of_bfloat16_logits_is_computed_in_float32() -> None:
    loss = task_loss(torch.zeros(1, 1, 3, dtype=torch.bfloat16), torch.tensor([[1]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(3))


def test_distillation_is_temperature_squared_times_the_divergence() -> None:
    # At T = 3 the logits 3 ln p become ln p. Base (3/4, 1/4), safe (1/2, 1/2):
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2); times T^2 = 9.
    base = 3 * torch.tensor([[[0.75, 0.25]]]).log()
    safe = 3 * torch.tensor([[[0.5, 0.5]]]).log()
    expected = 9 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert distillation_loss(safe, base, torch.ones(1, 1, dtype=torch.bool), 3.0).item() == pytest.approx(expected)


def test_distillation_runs_from_the_base_to_the_safe_model_and_not_back() -> None:
    base = torch.tensor([[[0.75, 0.25]]]).log()
    safe = torch.tensor([[[0.5, 0.5]]]).log()
    mask = torch.ones(1, 1, dtype=torch.bool)
    forward, backward = distillation_loss(safe, base, mask, 1.0), distillation_loss(base, safe, mask, 1.0)
    assert forward.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert backward.item() == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


def test_distillation_averages_over_masked_positions_only() -> None:
    base = torch.tensor([[[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]]]).log()
    safe = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [float("nan"), 0.5]]]).log()
    mask = torch.tensor([[True, True, False]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert distillation_loss(safe, base, mask, 1.0).item() == pytest.approx(expected)


def test_distillation_of_equal_logits_has_no_value_and_no_gradient() -> None:
    logits = torch.randn(2, 2, 5, requires_grad=True)
    loss = distillation_loss(logits, logits.detach().clone(), torch.ones(2, 2, dtype=torch.bool), 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_distillation_with_an_empty_mask_is_zero_and_differentiable() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = distillation_loss(logits, torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool), 3.0)
    loss.backward()
    assert loss.item() == 0


def test_no_gradient_reaches_the_base_logits() -> None:
    base = torch.randn(1, 1, 3, requires_grad=True)
    safe, mask = torch.randn(1, 1, 3, requires_grad=True), torch.ones(1, 1, dtype=torch.bool)
    distillation_loss(safe, base, mask, 3.0).backward()
    assert base.grad is None
