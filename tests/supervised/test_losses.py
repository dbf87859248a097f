from __future__ import annotations

import math

import pytest
import torch

from supervised.losses import IGNORED, distillation_loss, feature_loss, task_loss


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


def test_parts_of_a_batch_add_up_to_its_losses() -> None:
    torch.manual_seed(0)
    logits, base = torch.randn(5, 3, 7), torch.randn(5, 3, 7)
    labels = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED], [0, 1, 2], [4, 5, IGNORED], [6, IGNORED, IGNORED]])
    counted = labels != IGNORED
    total = int(counted.sum())
    cut = [slice(0, 2), slice(2, 5)]
    task = sum(task_loss(logits[part], labels[part], total) for part in cut)
    assert task == pytest.approx(task_loss(logits, labels).item())
    distilled = sum(distillation_loss(logits[part], base[part], counted[part], 2.0, total) for part in cut)
    assert distilled == pytest.approx(distillation_loss(logits, base, counted, 2.0).item())
    features = sum(feature_loss(logits[part, 0], base[part, 0], 5) for part in cut)
    assert features == pytest.approx(feature_loss(logits[:, 0], base[:, 0]).item())


def test_the_feature_loss_is_the_squared_distance_relative_to_the_bases_size() -> None:
    # Row 0: |(1, 0)|^2 / |(3, 4)|^2 = 1 / 25; row 1: |(0, 2)|^2 / |(0, 1)|^2 = 4.
    states = torch.tensor([[4.0, 4.0], [0.0, 3.0]])
    base = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert feature_loss(states, base).item() == pytest.approx((1 / 25 + 4) / 2)
    assert feature_loss(10 * states, 10 * base).item() == pytest.approx((1 / 25 + 4) / 2)


def test_the_feature_loss_moves_the_model_and_not_the_base() -> None:
    states, base = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    feature_loss(states, base).backward()
    assert base.grad is None
    assert states.grad is not None
    assert states.grad.any()


def test_the_feature_loss_of_no_row_and_of_a_base_of_zeros_is_finite() -> None:
    assert feature_loss(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0
    assert torch.isfinite(feature_loss(torch.zeros(1, 3), torch.zeros(1, 3)))
