from __future__ import annotations

from typing import Any

import pytest

from supervised.data.manifest import write_manifest
from supervised.data.sample import Sample
from supervised.errors import DataError


def captions(folder: Any, count: int) -> None:
    """Write COCO captions, two for each picture."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(count)]
    said = [{"image_id": n // 2, "id": n, "caption": f"caption {n}"} for n in range(2 * count)]
    folder.json("captions_val2017.json", {"images": images, "annotations": said})
    folder.media(*(f"val2017/{n:012d}.jpg" for n in range(count)))


def clips(folder: Any, splits: dict[str, str]) -> str:
    """Write a manifest with a clip for each name."""
    folder.media(*(f"clips/{name}.wav" for name in splits))
    path = folder.root / "sounds.jsonl"
    write_manifest(
        path,
        [
            Sample(name, "which sound?", ("dog",), None, folder.root / "clips" / f"{name}.wav", group=name, split=split)
            for name, split in splits.items()
        ],
    )
    return str(path)


def test_every_picture_hears_one_clip_of_its_own_split(folder: Any) -> None:
    captions(folder, 20)
    manifest = clips(folder, {"a": "test", "b": "test", "c": "train"})
    found = folder.run("coco", sounds=manifest)
    heard = {name: sample.audio.stem for name, sample in found.items()}
    assert set(heard.values()) == {"a", "b"}
    assert all(heard[f"coco-{n}-open"] == heard[f"coco-{n}-yes"] == heard[f"coco-{n}-no-1"] for n in range(20))
    assert {sample.retention_set for sample in found.values()} == {"coco"}
    assert folder.run("coco", sounds=manifest) == found


def test_a_split_without_clips_is_named(folder: Any) -> None:
    captions(folder, 2)
    with pytest.raises(DataError, match=r"sounds\.jsonl has no clip in split 'test', for questions such as 'coco-0-"):
        folder.run("coco", sounds=clips(folder, {"c": "train"}))


def test_questions_about_a_sound_keep_their_own(folder: Any) -> None:
    folder.csv("test.csv", [["audiocap_id", "youtube_id", "start_time", "caption"], [1, "abc", 0, "rain"]])
    folder.media("audio/abc_0.wav")
    found = folder.run("audiocaps", sounds=clips(folder, {"a": "test"}), questions="open")
    assert found["audiocaps-abc_0-open"].audio.name == "abc_0.wav"
