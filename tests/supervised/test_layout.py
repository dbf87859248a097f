from __future__ import annotations

import torch

from supervised.layout import Layout

IDS = torch.tensor([[0, 1, 9, 9, 5, 6], [1, 9, 9, 5, 6, 7]])  # 0 is padding, 9 a picture


def test_new_columns_are_inserted_where_each_row_wants_them() -> None:
    layout = Layout.inserting(torch.tensor([4, 3]), 2, 6)
    assert layout.source.tolist() == [[0, 1, 2, 3, -1, -1, 4, 5], [0, 1, 2, -1, -1, 3, 4, 5]]
    assert layout.spread(IDS, 8).tolist() == [[0, 1, 9, 9, 8, 8, 5, 6], [1, 9, 9, 8, 8, 5, 6, 7]]


def test_pictures_and_questions_of_other_lengths_end_together() -> None:
    layout, first = Layout.aligning(torch.tensor([1, 0]), torch.tensor([4, 3]), 6)
    # first parts 1 9 9 and 1 9 9 end in column 3; questions 5 6 and 5 6 7 end in the last one
    assert first == 3
    assert layout.spread(IDS, 8).tolist() == [[1, 9, 9, 8, 5, 6], [1, 9, 9, 5, 6, 7]]


def test_a_row_without_a_first_part_gets_padding_there() -> None:
    ids = torch.tensor([[1, 9, 9, 5], [0, 0, 5, 6]])
    layout, first = Layout.aligning(torch.tensor([0, 2]), torch.tensor([3, 2]), 4)
    assert first == 3
    assert layout.spread(ids, 8).tolist() == [[1, 9, 9, 8, 5], [8, 8, 8, 5, 6]]


def test_arguments_with_a_value_per_token_are_spread_each_in_its_way() -> None:
    layout = Layout.inserting(torch.tensor([4, 3]), 1, 6)
    inputs = {"input_ids": IDS, "labels": IDS, "token_type_ids": IDS, "pixel_values": torch.zeros(2, 3), "name": "x"}
    arguments = layout.arguments(inputs, placeholder=4)
    column = {name: arguments[name][1].tolist() for name in ("input_ids", "labels", "token_type_ids", "attention_mask")}
    assert column == {
        "input_ids": [1, 9, 9, 4, 5, 6, 7],
        "labels": [1, 9, 9, -100, 5, 6, 7],
        "token_type_ids": [1, 9, 9, 0, 5, 6, 7],
        "attention_mask": [1, 1, 1, 0, 1, 1, 1],
    }
    assert arguments["pixel_values"] is inputs["pixel_values"]
    assert arguments["name"] == "x"


def test_restoring_takes_the_new_columns_out_again() -> None:
    layout = Layout.inserting(torch.tensor([4, 3]), 2, 6)
    values = layout.spread(IDS, 8)[..., None]  # (B, 8, 1)
    assert torch.equal(layout.restore(values)[..., 0], IDS)
    assert torch.equal(layout.restore(values[:, -5:], keep=3)[..., 0], IDS[:, -3:])  # the last five columns only
    beams = values.repeat_interleave(2, 0)
    assert torch.equal(layout.restore(beams)[..., 0], IDS.repeat_interleave(2, 0))
