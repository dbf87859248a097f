from __future__ import annotations

from typing import Any

import pytest

from supervised.errors import DataError


def rows(image: str, *captions: str | None) -> list[dict[str, Any]]:
    """Return a row per caption; None: a row that lacks it."""
    return [
        {"image_id": image, "caption_id": f"{image}{i}", "image_classes": ["Billboard"], "reference_strs": [None]}
        | ({} if caption is None else {"caption_str": caption})
        for i, caption in enumerate(captions)
    ]


def test_the_captions_of_a_picture_are_gathered_and_rows_without_one_left_out(folder: Any) -> None:
    data = [*rows("3a1c", "A sign says stop.", None, "A red sign."), *rows("77fe", "A bus to Leeds.")]
    folder.json("TextCaps_0.1_val.json", {"dataset_name": "textcaps", "data": data, "dataset_version": "0.1"})
    folder.media("train_images/3a1c.jpg", "train_images/77fe.jpg")
    found = folder.run("textcaps")
    assert found["textcaps-3a1c-open"].answers == ("A sign says stop.", "A red sign.")
    assert {(sample.retention_set, sample.split) for sample in found.values()} == {("textcaps", "test")}
    assert len(found) == 6
    assert folder.report.reasons == {"row without caption_str": 1}


def test_half_a_character_in_a_name_is_named(folder: Any) -> None:
    folder.json("TextCaps_0.1_val.json", {"data": [*rows("3a1c", "x"), *rows("\ud83d", "y")]})
    folder.media("train_images/3a1c.jpg")
    with pytest.raises(DataError, match=r"row 2: 'image_id' holds half a character, got \"\\ud83d\"; correct it"):
        folder.run("textcaps")
    folder.run("textcaps", on_error="skip")
    assert folder.report.reasons == {"broken text": 1}


def test_a_doubled_caption_is_named(folder: Any) -> None:
    folder.json("TextCaps_0.1_val.json", {"data": rows("3a1c", "x") * 2})
    with pytest.raises(DataError, match=r"TextCaps_0\.1_val\.json, row 2: caption_id 3a1c0 stands twice"):
        folder.run("textcaps")
