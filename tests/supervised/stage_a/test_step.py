from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample
from supervised.errors import ModelError
from supervised.processes import Processes
from supervised.safe_model import SafeModel
from supervised.stage_a.config import LossConfig, StageAConfig
from supervised.stage_a.examples import Batch, Examples
from supervised.stage_a.fisher import Consolidated
from supervised.stage_a.null_space import NullSpace
from supervised.stage_a.objective import Objective
from supervised.stage_a.recomputing import recomputing
from supervised.stage_a.schedule import freeze, parameter_groups
from supervised.stage_a.step import Step
from supervised.stage_a.teacher import Teacher

CONFIG = StageAConfig(steps=10, warmup_steps=0, gate_warmup_steps=2, clip_norm=1e9)
WEIGHTS = {"task": 1.0, "distill": 2.0, "feature": 3.0, "fisher": 0.0, "sparsity": 0.0}


@pytest.fixture
def model(tiny_model: SafeModel) -> SafeModel:
    """The tiny model with an adapter of its own, so that a test may train it."""
    adapter = copy.deepcopy(tiny_model.adapter)
    return SafeModel(
        tiny_model.base, tiny_model.processor, tiny_model.encoder, adapter, tiny_model.config, tiny_model.fit
    )


@pytest.fixture
def examples(model: SafeModel, tiny_samples: list[Sample]) -> Examples:
    return Examples(model, tiny_samples, range(6), lambda _: None)


def stepper(examples: Examples, config: StageAConfig = CONFIG) -> Step:
    optimizer = torch.optim.AdamW(parameter_groups(examples.model.adapter, config))
    objective = Objective(examples, Teacher(examples, [4, 5]), config.loss)
    return Step(objective, optimizer, config, Processes())


def gradients(examples: Examples) -> dict[str, Tensor]:
    found = {}
    for name, parameter in examples.model.adapter.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
    return found


def batches(examples: Examples, *parts: list[int]) -> list[Batch]:
    return [examples.batch(part) for part in parts]


def test_parts_of_a_batch_give_the_gradient_and_the_losses_of_the_whole(examples: Examples) -> None:
    step = stepper(examples)
    whole = step.gradient(1, batches(examples, [0, 1, 2, 3, 5]), WEIGHTS)
    expected = gradients(examples)
    parts = step.gradient(1, batches(examples, [0, 5], [1], [2, 3]), WEIGHTS)
    assert {"task_loss", "distill_loss", "feature_loss", "loss"} <= set(whole)
    for name in ("task_loss", "distill_loss", "feature_loss", "loss", "grad_norm"):
        assert whole[name] > 0
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)
    for name, gradient in gradients(examples).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_the_states_of_a_part_are_let_go_of_before_the_next(examples: Examples) -> None:
    adapter, alive = examples.model.adapter, []
    results: list[weakref.ref[Tensor]] = []

    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        alive.append(sum(earlier() is not None for earlier in results))
        results.append(weakref.ref(result))

    handle = adapter.register_forward_hook(count, with_kwargs=True)
    stepper(examples).gradient(1, batches(examples, [0, 5], [1], [2, 3]), WEIGHTS)
    handle.remove()
    assert alive == [0, 0, 0]


def test_the_loss_is_the_weighted_sum_of_its_terms(examples: Examples) -> None:
    step = stepper(examples)
    figures = step.gradient(1, batches(examples, [0, 1, 5]), WEIGHTS)
    total = figures["task_loss"] + 2 * figures["distill_loss"] + 3 * figures["feature_loss"]
    assert figures["loss"] == pytest.approx(total)
    alone = step.gradient(1, batches(examples, [0, 1, 5]), WEIGHTS | {"distill": 0.0, "feature": 0.0})
    assert alone["loss"] == alone["task_loss"] == pytest.approx(figures["task_loss"])


def test_a_process_without_a_question_has_a_gradient_of_zeros(examples: Examples) -> None:
    step = stepper(examples)
    figures = step.gradient(1, [], WEIGHTS)
    assert figures["loss"] == 0
    assert not any(bool(gradient.any()) for gradient in gradients(examples).values())


def test_only_the_first_tokens_of_an_answer_are_anchored(model: SafeModel, tiny_samples: list[Sample]) -> None:
    samples = [*tiny_samples[:4], replace(tiny_samples[5], answers=("two three dog red",))]
    examples = Examples(model, samples, range(5), lambda _: None)

    def distilled(tokens: int) -> Tensor:
        objective = Objective(examples, Teacher(examples, [4]), LossConfig(anchor_tokens=tokens))
        batch = examples.batch([4])
        return objective(batch, 1.0, None, objective.counts([batch]))["distill"]

    first, two, all_of_it = (distilled(tokens).item() for tokens in (1, 2, 20))
    assert len({first, two, all_of_it}) == 3
    objective = Objective(examples, None, LossConfig(anchor_tokens=2))
    assert objective.counts(batches(examples, [0, 4])).tolist() == [2, 2, 1, 2]  # "dog" and its end; 2; 1; 2 clips


def test_the_fisher_term_pulls_back_to_where_the_phase_began(examples: Examples) -> None:
    step = stepper(examples)
    adapter = examples.model.adapter
    named = dict(adapter.named_parameters())
    start = {name: parameter.detach() - 0.5 for name, parameter in named.items()}
    information = {name: torch.full_like(parameter, 2.0) for name, parameter in named.items()}
    step.consolidated = Consolidated(information, start)
    figures = step.gradient(1, [], WEIGHTS | {"fisher": 0.1})
    numbers = sum(parameter.numel() for parameter in named.values())
    assert figures["fisher_loss"] == pytest.approx(2.0 * 0.25 * numbers, rel=1e-4)
    assert figures["loss"] == pytest.approx(0.1 * figures["fisher_loss"])
    for gradient in gradients(examples).values():
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.1 * 2 * 2.0 * 0.5))


def test_a_step_moves_only_the_parts_of_its_phase(examples: Examples) -> None:
    step = stepper(examples)
    adapter = examples.model.adapter
    before = {name: parameter.detach().clone() for name, parameter in adapter.named_parameters()}
    freeze(step.optimizer, 0)
    step.gradient(1, batches(examples, [0, 1, 5]), WEIGHTS)
    step.follow(1)
    moved = {name.split(".")[0] for name, value in adapter.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"projector"}
    freeze(step.optimizer, 1)
    step.gradient(2, batches(examples, [0, 1, 5]), WEIGHTS)
    step.follow(2)
    moved = {name.split(".")[0] for name, value in adapter.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"projector", "fusion", "markers"}


def test_protected_directions_stay_through_steps(examples: Examples) -> None:
    step = stepper(examples, replace(CONFIG, fusion_lr=0.1))
    step.null_space = NullSpace.measure(examples, [5], 0.9)
    weight = examples.model.adapter.get_parameter("fusion.attention.query.down.weight")
    [basis] = [basis for name, basis in step.null_space.tensors().items() if name.endswith("query.down.weight")]
    before = weight.detach().clone()
    for number in range(3):
        step.gradient(number, batches(examples, [0, 1, 5]), WEIGHTS)
        step.follow(number)
    assert not torch.allclose(weight, before)
    torch.testing.assert_close(weight @ basis, before @ basis, rtol=1e-4, atol=1e-5)


def test_layers_that_are_computed_again_give_the_same_gradient_and_keep_less(examples: Examples) -> None:
    step = stepper(examples)
    step.gradient(1, batches(examples, [0, 1, 2, 5]), WEIGHTS)
    expected = gradients(examples)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.gradient(1, batches(examples, [0, 1, 2, 5]), WEIGHTS)
    everything = sum(kept)
    kept.clear()
    with recomputing(examples.model.stack), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.gradient(1, batches(examples, [0, 1, 2, 5]), WEIGHTS)
    assert sum(kept) < everything
    for name, gradient in gradients(examples).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def test_layers_that_hear_are_computed_again_with_what_they_heard(
    tiny_config: ModelConfig, tiny_samples: list[Sample]
) -> None:
    torch.manual_seed(0)
    fusion = FusionConfig(layers=(0, 1), residual_scale=1.0)
    examples = Examples(SafeModel.attach(replace(tiny_config, fusion=fusion)), tiny_samples, range(6), lambda _: None)
    step = stepper(examples)
    step.gradient(1, batches(examples, [0, 1, 5]), WEIGHTS)
    expected = gradients(examples)
    with recomputing(examples.model.stack):
        step.gradient(1, batches(examples, [0, 1, 5]), WEIGHTS)
    for name, gradient in gradients(examples).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def test_after_recomputing_the_layers_are_as_before(examples: Examples) -> None:
    layers = list(examples.model.stack.layers)
    with pytest.raises(RuntimeError, match="gone"), recomputing(examples.model.stack):
        raise RuntimeError("gone")
    assert all("forward" not in vars(layer) for layer in layers)


def test_a_gradient_that_is_not_finite_is_refused(examples: Examples) -> None:
    with torch.no_grad():
        examples.model.adapter.get_parameter("projector.queries").fill_(float("nan"))
    with pytest.raises(ModelError, match=r"diverged at step 2 \(gradient norm nan\); lower stage_a\.fusion_lr"):
        stepper(examples).gradient(1, batches(examples, [0, 1, 5]), WEIGHTS)
