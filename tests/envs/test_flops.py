"""Operations are counted on the tiny model; what USE adds is what it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.config import OutcomesConfig
from envs.flops import count_flops
from supervised.data.sample import Sample
from supervised.errors import DataError
from supervised.safe_model import SafeModel

CONFIG = OutcomesConfig(max_new_tokens=1)


@pytest.fixture(scope="module")
def heard(many_samples: list[Sample]) -> Sample:
    return next(sample for sample in many_samples if sample.audio is not None)


def test_a_base_pass_is_its_linear_layers_and_convolutions_and_little_else(tiny_model: Any, heard: Sample) -> None:
    """The layers are counted by hand: two operations per weight and position."""
    by_hand = 0

    def count(module: Any, given: Any, result: Any) -> None:
        nonlocal by_hand
        positions = result.numel() // result.shape[1 if isinstance(module, torch.nn.Conv2d) else -1]
        by_hand += 2 * module.weight.numel() * positions

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    hooks = [part.register_forward_hook(count) for part in tiny_model.base.modules() if isinstance(part, kinds)]
    counted = count_flops(tiny_model, [replace(heard, audio=None)], CONFIG)
    for hook in hooks:
        hook.remove()
    assert counted["skip"] == counted["use"]  # without a clip audio is passed by
    assert by_hand < counted["skip"] < 1.25 * by_hand  # the rest is attention


def test_audio_pays_the_encoder_and_a_second_pass(tiny_model: Any, heard: Sample) -> None:
    cascade, router, clap = (
        count_flops(tiny_model, [heard], config)
        for config in (CONFIG, replace(CONFIG, cost_mode="router"), replace(CONFIG, preview="clap"))
    )
    assert cascade["skip"] == router["skip"]
    # The cascade has run the whole base before; the router has only its picture to encode once more.
    assert cascade["skip"] < router["use"] < cascade["use"] < router["use"] + cascade["skip"]
    encoder = clap["skip"] - cascade["skip"]
    assert encoder > 0
    assert clap["use"] == cascade["use"]  # the encoder is paid once, before or after the decision


def test_features_that_are_kept_cost_what_hearing_them_does(
    tiny_config: Any, tiny_model: Any, heard: Sample, tmp_path: Path
) -> None:
    model = SafeModel.attach(replace(tiny_config, feature_cache=str(tmp_path)))
    model.encode_audio([heard.audio])
    assert count_flops(model, [heard], CONFIG) == count_flops(tiny_model, [heard], CONFIG)


def test_the_mean_is_over_the_questions(tiny_model: Any, many_samples: list[Sample], heard: Sample) -> None:
    silent = replace(heard, audio=None)
    pair = count_flops(tiny_model, [heard, silent], CONFIG)
    each = [count_flops(tiny_model, [sample], CONFIG) for sample in (heard, silent)]
    for action in ("skip", "use"):
        assert pair[action] == (each[0][action] + each[1][action]) / 2


def test_a_longer_answer_costs_more(tiny_model: Any, heard: Sample) -> None:
    short, long = (count_flops(tiny_model, [heard], replace(CONFIG, max_new_tokens=n)) for n in (1, 4))
    assert short["skip"] < long["skip"] < 2 * short["skip"]  # the prompt is read once


def test_fewer_audio_tokens_cost_less_and_all_of_them_what_use_costs(tiny_model: Any, heard: Sample) -> None:
    plain = count_flops(tiny_model, [heard], CONFIG)
    counted = count_flops(tiny_model, [heard], replace(CONFIG, budgets=(2, 4, 8)))
    assert list(counted) == ["skip", "use_2", "use_4", "use_8"]
    assert counted["skip"] == plain["skip"]
    assert counted["use_8"] == plain["use"]
    # By hand, per token: Da = 16, D = H = 32, T tokens heard, L positions of the prompt. Queries and their mean, two
    # layers of the projector, value with LoRA of rank 8, and attention (scores and mean).
    audio = tiny_model.encode_audio([heard.audio]).tokens
    heard_tokens, length = audio.shape[1], tiny_model.inputs([heard])["input_ids"].shape[1]
    fusion = 32 * 8 * 2 + 2 * length * 32
    by_hand = 2 * (2 * heard_tokens * 16 + 16 * 32 + 32 * 32 + fusion)
    assert counted["use_4"] - counted["use_2"] == 2 * by_hand
    assert counted["use_8"] - counted["use_4"] == 4 * by_hand


def test_no_question_is_refused(tiny_model: Any) -> None:
    with pytest.raises(DataError, match="operations are counted on at least one question, got none"):
        count_flops(tiny_model, [], CONFIG)
