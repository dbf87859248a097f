from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from envs.passes import Passes
from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.safe_model import SafeModel


@pytest.fixture(scope="module")
def suffix_model(tiny_config: ModelConfig) -> SafeModel:
    """The tiny models, with fusion after the picture only."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return SafeModel.attach(replace(tiny_config, fusion=replace(tiny_config.fusion, scope="suffix")))


def _columns(model: SafeModel) -> tuple[list[int], Any]:
    """Let the text stack tell how many columns each of its calls had."""
    seen: list[int] = []
    hook = model.stack.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    return seen, hook


def test_the_pass_with_audio_reads_the_question_only_and_says_the_same(
    suffix_model: SafeModel, tiny_samples: list[Sample]
) -> None:
    passes = Passes(suffix_model, OutcomesConfig(), LatencyProfile.free())
    samples = [passes.load(sample) for sample in tiny_samples[:2]]
    base, audio = passes.base(samples), passes.encode(samples)
    seen, hook = _columns(suffix_model)
    kept = passes.use(base, audio)
    hook.remove()
    whole = passes.use(replace(base, prefix=None), audio)
    assert kept.answers == whole.answers
    length, picture = base.inputs["input_ids"].shape[1], int((base.inputs["input_ids"][0] == 4).nonzero().max()) + 1
    assert seen[0] == length - picture
    assert set(seen[1:]) == {1}


def test_each_budget_goes_on_from_the_same_prefix(suffix_model: SafeModel, tiny_samples: list[Sample]) -> None:
    passes = Passes(suffix_model, OutcomesConfig(budgets=(1, 8)), LatencyProfile.free())
    samples = [passes.load(sample) for sample in tiny_samples[:2]]
    base, audio = passes.base(samples), passes.encode(samples)
    whole = passes.uses(replace(base, prefix=None), audio)
    assert [use.answers for use in passes.uses(base, audio)] == [use.answers for use in whole]


@pytest.mark.parametrize(("scope", "cost_mode"), [("prompt", "cascade"), ("suffix", "router")])
def test_no_prefix_is_kept_where_none_could_be_used(
    suffix_model: SafeModel, tiny_model: SafeModel, tiny_samples: list[Sample], scope: str, cost_mode: Any
) -> None:
    model = suffix_model if scope == "suffix" else tiny_model
    passes = Passes(model, OutcomesConfig(cost_mode=cost_mode), LatencyProfile.free())
    assert passes.base([passes.load(tiny_samples[0])]).prefix is None
