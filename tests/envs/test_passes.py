from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.build import build_table
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from envs.passes import Passes
from supervised.config import FusionConfig, ModelConfig
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


@pytest.fixture(scope="module")
def reading_model(tiny_t5_dir: Path, tiny_encoder_dir: Path) -> SafeModel:
    """A base with an encoder for the prompt and a decoder for the answer."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        fusion = FusionConfig(residual_scale=3.0)
        return SafeModel.attach(ModelConfig(base=str(tiny_t5_dir), encoder=str(tiny_encoder_dir), fusion=fusion))


def test_an_encoder_decoder_is_read_at_its_encoder_and_from_its_first_answer_token(
    reading_model: SafeModel, tiny_samples: list[Sample]
) -> None:
    model, config = reading_model, OutcomesConfig(max_new_tokens=3, feature_dtype="float32")
    passes = Passes(model, config, LatencyProfile.free())
    samples = [passes.load(sample) for sample in (tiny_samples[0], tiny_samples[5])]
    base = passes.base(samples)
    output = model.base.generate(
        **base.inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad():
        states = model.base(**base.inputs, decoder_input_ids=output.sequences[:, :1]).language_model_outputs
    steps = [logits.log_softmax(1) for logits in output.logits]
    tokenizer = model.processor.tokenizer
    for row in range(2):
        said = output.sequences[row, 1:].tolist()
        length = said.index(1) + 1 if 1 in said else 3
        assert base.new_tokens[row] == length
        assert base.answers[row] == tokenizer.decode(said, skip_special_tokens=True).strip()
        likelihood = sum(float(steps[step][row, said[step]]) for step in range(length))
        assert base.features["confidence"][row, 3:5] == pytest.approx([likelihood, length], rel=1e-4)
        words = torch.tensor([token > 3 for token in base.inputs["input_ids"][row].tolist()])
        expected = states.encoder_last_hidden_state[row][words].mean(0)
        assert base.features["question"][row] == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)
    assert base.features["image"].any()
    assert base.prefix is None


def test_a_forced_first_token_tells_no_confidence(
    reading_model: SafeModel, tiny_samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(reading_model, OutcomesConfig(max_new_tokens=3, feature_dtype="float32"), LatencyProfile.free())
    samples = [passes.load(tiny_samples[0])]
    monkeypatch.setattr(reading_model.base.language_model.generation_config, "forced_bos_token_id", 9)
    base = passes.base(samples)
    output = reading_model.generate(base.inputs, max_new_tokens=3)
    assert output.sequences[0, 1] == 9
    chosen = output.logits[1][0].softmax(0)
    assert base.features["confidence"][0, 1] == pytest.approx(float(chosen.max()), rel=1e-4)
    assert base.features["confidence"][0, 4] == base.new_tokens[0] - 1


@pytest.mark.parametrize("cost_mode", ["cascade", "router"])
def test_a_table_of_an_encoder_decoder_has_an_exact_gate_zero(
    reading_model: SafeModel, tiny_samples: list[Sample], tmp_path: Path, cost_mode: Any
) -> None:
    config = OutcomesConfig(batch_size=3, exact_samples=6, latency_repeats=3, cost_mode=cost_mode)
    splits = {"train": tiny_samples[:4], "test": tiny_samples[4:]}
    table = build_table(reading_model, splits, config, tmp_path)
    assert table.provenance["gate_zero_bit_exact"] is True
    assert table.splits["train"] == 4
    predictions = [table.record(row)["predictions"] for row in range(6)]
    assert len(set(predictions[4])) == 1  # it has no clip
    assert any(len(set(pair)) == 2 for pair in predictions)
