from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supervised.adapter import Adapter
from supervised.config import FusionConfig, ProjectorConfig
from supervised.safe_model import SafeModel
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.schedule import (
    PHASES,
    budget_at,
    freeze,
    gate_at,
    parameter_groups,
    phase_at,
    rate_factor,
    set_rates,
)

RATES = StageAConfig(projector_lr=1.0, fusion_lr=2.0, gate_lr=3.0, marker_lr=4.0, weight_decay=0.5)


def make(kind: Any = "lora", **fusion: Any) -> Adapter:
    torch.manual_seed(0)
    return Adapter(
        ProjectorConfig(tokens=4),
        FusionConfig(kind=kind, heads=2, **fusion),
        6,
        0.5,
        torch.arange(8.0),
        ((3, 6), (2, 4)),
    )


def of(adapter: Adapter, config: StageAConfig = RATES, stack: nn.Module | None = None) -> dict[str, tuple[Any, ...]]:
    """Return part, peak rate and decay of every parameter by name."""
    found = {
        id(parameter): (group["part"], group["peak_lr"], group["weight_decay"])
        for group in parameter_groups(adapter, config, stack)
        for parameter in group["params"]
    }
    named = [*adapter.named_parameters(), *(() if stack is None else stack.named_parameters(prefix="stack"))]
    return {name: found[id(parameter)] for name, parameter in named if id(parameter) in found}


@pytest.mark.parametrize(
    ("kind", "layers", "gates"),
    [
        ("lora", (), {"fusion.residual_scale"}),
        ("cross_attention", (0, 2), {"fusion.0.residual_scale", "fusion.1.residual_scale"}),
        ("block", (), {"fusion.residual_scale"}),  # its norm, expand and contract are a feed-forward
        (
            "gated",
            (),
            {"fusion.residual_scale"}
            | {"fusion.look.weight"}
            | {
                f"fusion.{part}.{end}"
                for part in ("prompt_norm", "audio_norm", "expand", "contract")
                for end in ("weight", "bias")
            },
        ),
    ],
)
def test_residual_scales_and_learned_gates_have_a_rate_of_their_own_and_do_not_decay(
    kind: str, layers: tuple[int, ...], gates: set[str]
) -> None:
    adapter = make(kind, layers=layers, residual="per_layer")
    groups = of(adapter)
    assert {name for name, each in groups.items() if each[0] == "gate"} == gates
    assert {groups[name] for name in gates} == {("gate", 3.0, 0.0)}
    assert groups.keys() == {name for name, _ in adapter.named_parameters()}
    assert groups["markers"] == ("markers", 4.0, 0.0)
    assert groups["projector.expand.weight"] == ("projector", 1.0, 0.5)
    assert groups["projector.expand.bias"] == ("projector", 1.0, 0.0)


def test_a_fixed_residual_scale_is_in_no_group() -> None:
    assert "fusion.residual_scale" not in of(make(residual="fixed"))


def test_the_text_stack_of_a_naive_run_is_trained_at_the_rate_of_the_fusion() -> None:
    stack = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    stack[0].bias.requires_grad_(False)
    groups = of(make(), RATES, stack)
    found = {name: each for name, each in groups.items() if name.startswith("stack")}
    assert found == {"stack.0.weight": ("base", 2.0, 0.5), "stack.1.weight": ("base", 2.0, 0.0)} | {
        "stack.1.bias": ("base", 2.0, 0.0)
    }


def test_without_restarts_the_rates_are_one_cosine_after_the_warm_up() -> None:
    config = StageAConfig(steps=100, warmup_steps=20)
    assert [rate_factor(step, config) for step in (0, 9, 19, 20)] == [0.05, 0.5, 1.0, 1.0]
    assert [rate_factor(step, config) for step in (40, 60, 80)] == pytest.approx(
        [0.5 * (1 + math.sqrt(0.5)), 0.5, 0.5 * (1 - math.sqrt(0.5))]
    )


def test_warm_restarts_cut_what_follows_the_warm_up_into_equal_cosines() -> None:
    config = StageAConfig(steps=100, warmup_steps=10, restarts=2)  # cycles of 30 steps, from 10, 40 and 70
    rates = [rate_factor(step, config) for step in range(100)]
    assert [step for step in range(10, 100) if rates[step] == 1.0] == [10, 40, 70]
    assert [rates[first + 15] for first in (10, 40, 70)] == pytest.approx([0.5] * 3)
    assert rates[10:40] == rates[40:70] == rates[70:100]
    assert rates[39] == pytest.approx(0.5 * (1 + math.cos(math.pi * 29 / 30)))


@given(
    steps=st.integers(1, 400),
    warmup=st.integers(0, 50),
    restarts=st.integers(0, 6),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_rates_stay_between_nothing_and_their_peak_and_phases_never_go_back(
    steps: int, warmup: int, restarts: int, cut: tuple[float, float]
) -> None:
    first, second = sorted(cut)
    phases = (first, second - first, 1 - second)
    config = StageAConfig(steps=steps, warmup_steps=warmup, restarts=restarts, phases=phases)
    assert all(0 <= rate_factor(step, config) <= 1 for step in range(steps + 1))
    walked = [phase_at(step, config) for step in range(steps)]
    assert walked == sorted(walked)
    assert abs(walked.count(0) - first * steps) <= 1
    assert abs(walked.count(2) - (1 - second) * steps) <= 1


def test_phases_follow_their_shares_and_the_last_has_small_rates() -> None:
    config = StageAConfig(steps=10, warmup_steps=0, phases=(0.1, 0.6, 0.3), small_rate=0.1)
    plain = StageAConfig(steps=10, warmup_steps=0)
    assert [phase_at(step, config) for step in range(12)] == [0, *[1] * 6, *[2] * 5]
    assert [rate_factor(step, config) for step in range(7)] == [rate_factor(step, plain) for step in range(7)]
    assert [rate_factor(step, config) for step in (7, 8, 9)] == pytest.approx(
        [0.1 * rate_factor(step, plain) for step in (7, 8, 9)]
    )


def test_small_rates_hold_in_a_warm_up_too() -> None:
    config = StageAConfig(steps=10, warmup_steps=10, phases=(0.0, 0.5, 0.5), small_rate=0.5)
    assert [rate_factor(step, config) for step in (4, 5)] == pytest.approx([0.5, 0.3])


def test_by_default_there_is_one_phase_that_trains_everything() -> None:
    assert {phase_at(step, StageAConfig()) for step in range(1001)} == {1}
    assert {each[0] for each in of(make("gated")).values()} <= PHASES[1] == PHASES[2]


def test_the_projector_alone_learns_in_the_first_phase_and_frozen_parts_keep_values_and_moments() -> None:
    adapter = make("gated")
    optimizer = torch.optim.AdamW(parameter_groups(adapter, RATES))
    config = StageAConfig(steps=4, warmup_steps=0, phases=(0.5, 0.5, 0.0))

    def step(number: int) -> set[str]:
        before = {name: value.detach().clone() for name, value in adapter.named_parameters()}
        freeze(optimizer, phase_at(number, config))
        set_rates(optimizer, number, config)
        optimizer.zero_grad()
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return {name for name, value in adapter.named_parameters() if not torch.equal(value, before[name])}

    everything = {name for name, _ in adapter.named_parameters()}
    first = {name for name in everything if name.startswith(("projector.", "join."))}
    assert step(1) == first != everything
    assert len(optimizer.state) == len(first)
    assert step(2) == everything


def test_a_parameter_that_is_frozen_loses_the_gradient_it_had() -> None:
    adapter = make()
    optimizer = torch.optim.AdamW(parameter_groups(adapter, RATES))
    adapter.markers.grad = torch.ones_like(adapter.markers)
    freeze(optimizer, 0)
    assert [parameter.grad for parameter in (adapter.markers,)] == [None]
    assert not adapter.markers.requires_grad


def test_the_gate_is_never_zero_and_the_rates_rise_then_fall() -> None:
    config = StageAConfig(steps=100, warmup_steps=10, gate_warmup_steps=40)
    gates = [gate_at(step, config) for step in range(100)]
    rates = [rate_factor(step, config) for step in range(100)]
    assert gates[0] == 1 / 40
    assert gates[39:] == [1.0] * 61
    assert rates[9] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert gate_at(0, StageAConfig(gate_warmup_steps=0)) == rate_factor(0, StageAConfig(warmup_steps=0)) == 1.0


def test_each_budget_comes_once_in_a_turn() -> None:
    config = StageAConfig(budgets=(2, 4, 8))
    drawn = [budget_at(step, config) for step in range(60)]
    turns = {tuple(drawn[first : first + 3]) for first in range(0, 60, 3)}
    assert turns <= set(permutations((2, 4, 8)))
    assert len(turns) > 3
    assert drawn != [budget_at(step, replace(config, seed=1)) for step in range(60)]
    assert budget_at(0, StageAConfig()) is None


def test_every_trained_parameter_stands_in_one_group_and_only_matrices_decay(tiny_model: SafeModel) -> None:
    adapter = tiny_model.adapter
    config = StageAConfig(projector_lr=1.0, fusion_lr=2.0, gate_lr=4.0, marker_lr=3.0, weight_decay=0.5)
    of = {
        id(parameter): (group["peak_lr"], group["weight_decay"])
        for group in parameter_groups(adapter, config)
        for parameter in group["params"]
    }
    named = {name: of.get(id(parameter)) for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert None not in named.values()
    assert sum(len(group["params"]) for group in parameter_groups(adapter, config)) == len(named) == len(of)
    assert named["markers"] == (3.0, 0.0)
    assert named["fusion.residual_scale"] == (4.0, 0.0)
    assert named["projector.expand.weight"] == (1.0, 0.5)
    assert named["projector.expand.bias"] == (1.0, 0.0)
    assert named["fusion.attention.query.down.weight"] == (2.0, 0.5)
