from __future__ import annotations

from typing import Any

import pytest

from supervised.data.importers.templates import SEEN_OPEN, SEEN_YES_NO
from supervised.errors import DataError

IMAGES = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg", "width": 9} for number in (9, 25)]
CAPTIONS = [{"image_id": 9 if i < 6 else 25, "id": 100 + i, "caption": f"A dish, number {i}. "} for i in range(9)]


def test_official_captions_are_gathered_by_picture(folder: Any) -> None:
    folder.json("annotations/captions_val2014.json", {"images": IMAGES, "annotations": CAPTIONS, "type": "captions"})
    folder.media("val2014/COCO_val2014_000000000009.jpg", "images/COCO_val2014_000000000025.jpg")
    found = folder.run("coco")
    opened = found["coco-9-open"]
    assert opened.question in SEEN_OPEN
    assert opened.answers == tuple(f"A dish, number {i}." for i in range(6))
    assert (opened.retention_set, opened.group, opened.metric, opened.audio) == ("coco", "coco-9", "bleu", None)
    assert found["coco-25-no-1"].question in {form.format(text=said) for form in SEEN_YES_NO for said in opened.answers}
    assert {sample.split for sample in found.values()} == {"test"}


def test_the_names_of_2017_are_read(folder: Any) -> None:
    images = [{"id": 9, "file_name": "000000000009.jpg"}]
    folder.json("captions_train2017.json", {"images": images, "annotations": CAPTIONS[:1]})
    folder.media("train2017/000000000009.jpg")
    assert set(folder.run("coco")) == {"coco-9-open", "coco-9-yes"}  # no other picture to draw a wrong caption from


def test_faulty_captions_are_named_or_counted(folder: Any) -> None:
    wrong = [CAPTIONS[0], {"image_id": 4, "id": 1, "caption": "x"}, {"image_id": 9, "id": 2, "caption": 3}]
    folder.json("captions_val2014.json", {"images": IMAGES, "annotations": [*CAPTIONS, *wrong]})
    folder.media(*(f"val2014/{row['file_name']}" for row in IMAGES))
    with pytest.raises(DataError, match=r"captions_val2014\.json, annotation 10: caption id 100 stands twice"):
        folder.run("coco")
    folder.run("coco", on_error="skip")
    assert folder.report.reasons == {"doubled id": 1, "unknown picture": 1, "wrong type": 1}
    assert len(folder.report.types) == 2


# -- Karpathy's splits ------------------------------------------------------------------------------------------------


def image(number: int, split: str) -> dict[str, Any]:
    """Return an image of `dataset_coco.json`, whose folder says nothing about its split."""
    return {
        "filepath": "val2014",
        "filename": f"COCO_val2014_{number:012d}.jpg",
        "cocoid": number,
        "split": split,
        "sentences": [{"raw": f"caption {i} of {number}", "tokens": [], "sentid": i} for i in range(5)],
    }


def test_restval_counts_as_training_and_the_folder_says_nothing_about_the_split(folder: Any) -> None:
    splits = {1: "train", 2: "restval", 3: "val", 4: "test"}
    folder.json("dataset_coco.json", {"images": [image(*pair) for pair in splits.items()], "dataset": "coco"})
    folder.media(*(f"val2014/COCO_val2014_{number:012d}.jpg" for number in splits))
    found = folder.run("coco_karpathy", questions="open")
    got = [found[f"coco_karpathy-{number}-open"] for number in splits]
    assert [sample.split in ("adapter", "train") for sample in got] == [True, True, False, False]
    assert got[2].split in ("validation", "calibration")
    assert got[3].split == "test"
    assert {sample.retention_set for sample in got} == {"coco"}
    assert folder.report.own_splits == {"train": 2, "val": 1, "test": 1}
    assert list(folder.run("coco_karpathy", questions="open", split="val")) == ["coco_karpathy-3-open"]


def test_the_lists_of_lavis_have_one_caption_or_many_in_a_row(folder: Any) -> None:
    name = "val2014/COCO_val2014_000000522418.jpg"
    rows = [{"image": name, "caption": f"caption {i}", "image_id": "coco_522418"} for i in range(2)]
    folder.json("coco_karpathy_train.json", rows)
    test = {"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["one", "two", "three"]}
    folder.json("coco_karpathy_test.json", [test])
    folder.media(f"images/{name}", f"images/{test['image']}")
    found = folder.run("coco_karpathy")
    assert found["coco_karpathy-522418-open"].answers == ("caption 0", "caption 1")
    assert found["coco_karpathy-391895-open"].answers == ("one", "two", "three")
    assert found["coco_karpathy-391895-open"].group == "coco-391895"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "split 'dev' is unknown; allowed: train, restval, val, test"),
        ({"cocoid": 1}, "cocoid 1 stands twice"),
        ({"sentences": []}, "cocoid 2 has no sentence"),
        ({"filename": None}, "key 'filename' is missing"),
    ],
)
def test_a_faulty_image_is_named(folder: Any, change: Any, message: str) -> None:
    folder.json("dataset_coco.json", {"images": [image(1, "val"), image(2, "val") | change]})
    folder.media("val2014/COCO_val2014_000000000001.jpg")
    with pytest.raises(DataError, match=rf"dataset_coco\.json, image 2: {message}"):
        folder.run("coco_karpathy")
    assert len(folder.run("coco_karpathy", questions="open", on_error="skip")) == 1


def test_two_forms_of_the_captions_are_not_guessed_between(folder: Any) -> None:
    folder.json("dataset_coco.json", {"images": [image(1, "val")]})
    folder.json("coco_karpathy_val.json", [])
    with pytest.raises(DataError, match=r"holds dataset_coco\.json and coco_karpathy_\*\.json; keep one form"):
        folder.run("coco_karpathy")


def test_a_picture_is_in_the_same_split_for_every_dataset_that_trains_on_it(folder: Any) -> None:
    numbers = range(60)
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg"} for n in numbers]
    folder.json("captions_train2014.json", {"images": images, "annotations": [
        {"image_id": n, "id": n, "caption": f"picture {n}"} for n in numbers
    ]})  # fmt: skip
    questions = [{"question": "?", "image_id": n, "question_id": n} for n in numbers]
    answers = [{"answer": "yes", "answer_id": i} for i in range(10)]
    folder.json("v2_OpenEnded_mscoco_train2014_questions.json", {"questions": questions})
    folder.json("v2_mscoco_train2014_annotations.json", {"annotations": [
        {"question_id": n, "image_id": n, "answer_type": "yes/no", "answers": answers} for n in numbers
    ]})  # fmt: skip
    folder.media(*(f"train2014/COCO_train2014_{n:012d}.jpg" for n in numbers))
    captions, asked = folder.run("coco", questions="open"), folder.run("vqav2")
    assert {captions[f"coco-{n}-open"].split for n in numbers} == {"adapter", "train", "validation", "calibration"}
    assert all(captions[f"coco-{n}-open"].split == asked[f"vqav2-{n}"].split for n in numbers)
