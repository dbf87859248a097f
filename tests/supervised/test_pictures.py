from __future__ import annotations

from typing import Any

import pytest
import torch

from supervised.data.sample import Sample
from supervised.errors import ModelError
from supervised.pictures import Pictures, without_pixels
from supervised.safe_model import SafeModel


def test_a_question_begins_after_the_last_token_of_a_picture(tiny_model: SafeModel) -> None:
    pictures = Pictures(tiny_model.base)
    assert pictures.tokens == {4}
    ids = torch.tensor([[0, 4, 4, 7, 4, 8], [0, 0, 7, 8, 9, 7], [4, 4, 4, 4, 4, 4]])
    assert pictures.ends(ids).tolist() == [5, 0, 6]


def test_encoded_pictures_take_the_place_of_pixels_and_of_nothing_else(
    tiny_model: SafeModel, tiny_samples: list[Sample]
) -> None:
    pictures, inputs = Pictures(tiny_model.base), dict(tiny_model.inputs(tiny_samples[:1]))
    images = pictures.encode(inputs)
    arguments = pictures.arguments(inputs | {"image_sizes": torch.tensor([[48, 48]])}, images)
    assert set(arguments) == {"input_ids", "attention_mask", "image_sizes", "mm_encoder_outputs"}
    assert arguments["mm_encoder_outputs"]["image"] is not images  # beam search writes into it
    assert pictures.arguments(inputs, None) == inputs


def test_sizes_and_grids_stay_where_pixels_go() -> None:
    inputs: dict[str, Any] = dict.fromkeys(("input_ids", "pixel_values", "pixel_attention_mask", "image_grid_thw"), 0)
    assert set(without_pixels(inputs)) == {"input_ids", "image_grid_thw"}


def test_a_base_that_takes_no_encoded_pictures_says_so(tiny_model: SafeModel, tiny_samples: list[Sample]) -> None:
    class Older:
        """A base of an earlier transformers."""

        config = tiny_model.base.config
        base_model = tiny_model.base.base_model

        def forward(self, input_ids: Any = None) -> None: ...

    pictures, inputs = Pictures(Older()), tiny_model.inputs(tiny_samples[:1])
    assert pictures.encode(inputs) is None
    with pytest.raises(ModelError, match="cannot share encoded pictures; leave images out, or update transformers"):
        pictures.arguments(inputs, object())
