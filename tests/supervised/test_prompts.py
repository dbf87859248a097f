from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.errors import ConfigError, DataError, ModelError
from supervised.prompts import PLAIN, answer_ids, example_inputs, read_answers, write_inputs, write_prompt
from supervised.safe_model import SafeModel


@pytest.fixture
def plain(tiny_model: SafeModel) -> Any:
    """A processor without a chat template."""
    processor = tiny_model.processor
    bare = type(processor)(processor.image_processor, processor.tokenizer, patch_size=16, num_additional_image_tokens=1)
    bare.vision_feature_select_strategy = "default"
    assert bare.chat_template is None
    return bare


def test_chat_template_is_used_where_there_is_one(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    text = write_prompt(tiny_model.processor, tiny_samples[0])
    assert text == "user : <image> which sound can you hear ? assistant :"


def test_a_base_without_chat_template_gets_the_plain_prompt(plain: Any, tiny_samples: list[Sample]) -> None:
    assert PLAIN == "Question: {} Answer:"
    assert write_prompt(plain, tiny_samples[0]) == "<image>\nQuestion: which sound can you hear ? Answer:"
    without = replace(tiny_samples[0], image=None)
    assert write_prompt(plain, without) == "Question: which sound can you hear ? Answer:"


def test_a_template_of_ones_own_comes_before_the_chat_template(
    tiny_model: SafeModel, tiny_samples: list[Sample]
) -> None:
    template = "USER: <image>\n{} ASSISTANT:"
    sample = replace(tiny_samples[0], question="what { } is it ?")
    assert write_prompt(tiny_model.processor, sample, template) == "USER: <image>\nwhat { } is it ? ASSISTANT:"
    bare = write_prompt(tiny_model.processor, replace(sample, image=None), template)
    assert bare == "USER: what { } is it ? ASSISTANT:"


def test_a_processor_that_writes_the_pictures_itself_gets_no_token_of_ours(
    plain: Any, tiny_samples: list[Sample]
) -> None:
    plain.num_query_tokens = 32  # as in BLIP-2
    assert write_prompt(plain, tiny_samples[0]) == "Question: which sound can you hear ? Answer:"
    with pytest.raises(DataError, match=r"sample 'a1' has no picture, and LlavaProcessor puts one before every"):
        write_inputs(plain, [tiny_samples[0], replace(tiny_samples[1], image=None)])


def test_questions_are_padded_on_the_left_and_pictures_follow_their_rows(
    tiny_model: SafeModel, tiny_samples: list[Sample]
) -> None:
    samples = [tiny_samples[0], replace(tiny_samples[1], image=None)]
    batch = write_inputs(tiny_model.processor, samples)
    assert (batch["input_ids"] == 4).sum(1).tolist() == [9, 0]
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][1, 0] == 0
    assert batch["pixel_values"].shape == (1, 3, 48, 48)


def test_the_configured_prompt_reaches_the_base(tiny_config: ModelConfig, tiny_samples: list[Sample]) -> None:
    model = SafeModel.attach(replace(tiny_config, prompt="{} yes no ?"))
    ids = model.inputs([replace(tiny_samples[0], image=None)])["input_ids"][0]
    assert model.processor.tokenizer.decode(ids) == "which sound can you hear ? yes no ?"


@pytest.mark.parametrize("prompt", ["", "no place", "{} and {}"])
def test_a_prompt_without_one_place_for_the_question_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.prompt must contain \{\} once, for the question, got"):
        ModelConfig(prompt=prompt)


def test_example_shows_one_picture(tiny_model: SafeModel) -> None:
    batch = example_inputs(tiny_model.processor)
    assert batch["pixel_values"].shape == (1, 3, 48, 48)
    assert (batch["input_ids"] == 4).sum() == 9


def test_what_the_processor_refuses_is_an_error_about_the_data(tiny_samples: list[Sample]) -> None:
    class Choosy:
        tokenizer = SimpleNamespace(all_special_tokens=[], bos_token=None)

        def __call__(self, **_: Any) -> Any:
            raise ValueError("`images` are expected.\nAlways.")

    with pytest.raises(DataError, match=r"^Choosy refuses the questions from 'a0' on \(`images` are expected\); give"):
        write_inputs(Choosy(), tiny_samples[:2])


@pytest.mark.parametrize("error", [TypeError("not so"), KeyError("not so"), IndexError("not so"), OSError("not so")])
def test_whatever_a_processor_raises_is_one_line(
    tiny_model: SafeModel, tiny_samples: list[Sample], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(type(tiny_model.processor), "__call__", refuse)
    expected = r"^LlavaProcessor refuses the questions from 'a0' on \('?not so'?\); give[^\n]*$"
    with pytest.raises(DataError, match=expected):
        write_inputs(tiny_model.processor, tiny_samples[:2])


REFUSING = "{{ raise_exception('Only one turn.\nNo more.') }}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [(REFUSING, "Only one turn"), ("{{ messages.nothing.here }}", "has no attribute"), ("{% if %}", "Expected")],
)
def test_a_chat_template_that_refuses_is_one_line_that_names_the_sample(
    tiny_model: SafeModel,
    tiny_samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    template: str,
    reason: str,
) -> None:
    monkeypatch.setattr(tiny_model.processor, "chat_template", template)
    expected = rf"^the chat template of LlavaProcessor refuses the question of sample 'a0' \([^\n]*{reason}[^\n]*$"
    with pytest.raises(DataError, match=expected):
        write_prompt(tiny_model.processor, tiny_samples[0])
    assert write_prompt(tiny_model.processor, tiny_samples[0], "{}").startswith("<image>")


def test_a_base_whose_chat_template_refuses_is_attached_with_a_prompt_of_ones_own(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_config.base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(REFUSING)
    config = replace(tiny_config, base=str(base))
    expected = r"^base '[^\n]*' cannot be asked about a picture \(Only one turn\); set model\.prompt to a prompt[^\n]*$"
    with pytest.raises(ModelError, match=expected):
        SafeModel.attach(config)
    SafeModel.attach(replace(config, prompt="<image> {}"))


def test_answers_of_an_encoder_decoder_do_not_repeat_the_prompt(tiny_model: SafeModel) -> None:
    tokenizer = tiny_model.processor.tokenizer
    prompt = {"input_ids": torch.tensor(tokenizer("what is it ?")["input_ids"])[None]}
    answer = torch.tensor(tokenizer("a dog")["input_ids"])[None]
    whole = torch.cat([prompt["input_ids"], answer], 1)
    assert read_answers(tokenizer, whole, prompt, encoder_decoder=False) == ["a dog"]
    start = torch.tensor([[tokenizer.pad_token_id]])
    assert read_answers(tokenizer, torch.cat([start, answer], 1), prompt, encoder_decoder=True) == ["a dog"]


def test_prompts_and_answers_are_encoded_in_two_threads_without_each_others_padding(
    tiny_model: SafeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, kind = tiny_model.processor, type(tiny_model.processor.tokenizer)
    samples = [
        Sample("a", "what is it ?", ("dog",)),
        Sample("b", "which sound can you hear in the picture ?", ("dog",)),
    ]
    expected = write_inputs(processor, samples)["input_ids"].tolist()
    found: list[bool] = []
    pad = kind.set_truncation_and_padding

    def slow(*arguments: Any, **options: Any) -> None:
        pad(*arguments, **options)
        time.sleep(0.01)  # as long as another thread needs to ask for another padding

    def write() -> None:
        found.extend(write_inputs(processor, samples)["input_ids"].tolist() == expected for _ in range(20))

    monkeypatch.setattr(kind, "set_truncation_and_padding", slow)
    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        answer_ids(tiny_model.base, processor.tokenizer, "red one")
    thread.join()
    assert found == [True] * 20
