from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from supervised.data.importers.templates import SOUND_OPEN, SOUND_YES_NO
from supervised.errors import DataError

REAL = Path(__file__).parents[5] / "shared" / "data" / "vggsound"
LABELS = ["donkey, ass braying", "parrot talking", "dog barking", "dog bow-wow"]


def test_the_lists_of_the_splits_are_read(folder: Any) -> None:
    folder.csv("test.csv", [["glLQrEijrKg_000300.mp4", LABELS[0]], ["-DoXsip0BEQ_000177.mp4", LABELS[1]]])
    folder.csv("stat.csv", [[label, 1, "animals"] for label in LABELS])
    folder.media("video/glLQrEijrKg_000300.mp4", "audio/-DoXsip0BEQ_000177.wav")
    found = folder.run("vggsound")
    opened = found["vggsound-glLQrEijrKg_000300-open"]
    assert opened.question in SOUND_OPEN
    assert (opened.answers, opened.metric, opened.split) == (("donkey, ass braying",), None, "test")
    assert opened.audio == opened.image
    assert opened.group == "youtube-glLQrEijrKg"
    assert found["vggsound--DoXsip0BEQ_000177-open"].image is None
    yes = found["vggsound-glLQrEijrKg_000300-yes"]
    assert yes.question in {form.format(text=LABELS[0]) for form in SOUND_YES_NO}
    assert "Is there donkey, ass braying?" in {form.format(text=LABELS[0]) for form in SOUND_YES_NO}


def test_the_whole_list_has_no_header_and_says_the_split(folder: Any) -> None:
    folder.csv("data/vggsound.csv", [["---1_cCGK4M", 1, LABELS[2], "train"], ["glLQrEijrKg", 300, LABELS[1], "test"]])
    folder.media("video/---1_cCGK4M_000001.mp4", "video/glLQrEijrKg_000300.mp4")
    found = folder.run("vggsound", split="train", questions="open")
    assert list(found) == ["vggsound----1_cCGK4M_000001-open"]
    assert found["vggsound----1_cCGK4M_000001-open"].split in ("adapter", "train", "validation", "calibration")


def test_a_wrong_sound_shares_no_word_with_the_right_one(folder: Any) -> None:
    folder.csv("test.csv", [[f"clip{i:07d}_000000.mp4", LABELS[2]] for i in range(40)])
    folder.csv("stat.csv", [[label, 1, "animals"] for label in LABELS])
    folder.media(*(f"audio/clip{i:07d}_000000.wav" for i in range(40)))
    found = folder.run("vggsound", questions="yes_no", negatives=2)
    asked = [sample.question for sample in found.values() if sample.answers == ("no",)]
    assert len(asked) == 80
    named = {label for label in LABELS for question in asked if label in question}
    assert named == {"donkey, ass braying", "parrot talking"}


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (
            ["abc", 1, "zebra whistling", "test"],
            "unknown label",
            "label 'zebra whistling' is none of the 4 of stat.csv",
        ),
        (["abc", 1, LABELS[1], "dev"], "unknown split", "split 'dev' is unknown; allowed: train, test"),
        (["abc", "x", LABELS[1], "test"], "wrong form", "expected a YouTube id and whole seconds, got 'abc', 'x'"),
        (["abc", 1, "test"], "wrong form", "3 cells, expected 4"),
        (["abc", 1, LABELS[1], "test"], "sound missing", "no sound or video 'abc_000001'"),
    ],
)
def test_a_faulty_line_is_named_or_skipped_and_counted(folder: Any, row: Any, kind: str, message: str) -> None:
    folder.csv("vggsound.csv", [["glLQrEijrKg", 300, LABELS[0], "test"], row])
    folder.csv("stat.csv", [[label, 1, "animals"] for label in LABELS])
    folder.media("audio/glLQrEijrKg_000300.wav")
    with pytest.raises(DataError, match=rf"vggsound\.csv, line 2: .*{re.escape(message)}"):
        folder.run("vggsound")
    assert len(folder.run("vggsound", on_error="skip", questions="open")) == 1
    assert folder.report.reasons == {kind: 1}


def test_a_folder_without_lists_is_refused(folder: Any) -> None:
    with pytest.raises(DataError, match=r"no annotations under .*; looked for vggsound\.csv, train\.csv, test\.csv"):
        folder.run("vggsound")
    folder.csv("test.csv", [["a_000000.mp4", "x"]])
    with pytest.raises(DataError, match="split 'train' has no file under"):
        folder.run("vggsound", split="train")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="VGGSound's lists are not beside the checkout")
def test_the_real_list_holds_15446_clips_of_309_sounds(folder: Any) -> None:
    for name in ("test.csv", "stat.csv"):
        folder.json(name, (REAL / name).read_text(encoding="utf-8"))
    with open(folder.root / "test.csv", encoding="utf-8", newline="") as file:
        folder.media(*(f"video/{row[0]}" for row in csv.reader(file)))
    found = folder.run("vggsound")
    assert folder.report.types == {"Sound/open": 15446, "Sound/yes_no": 2 * 15446}
    assert len({sample.answers for sample in found.values() if sample.type == "Sound/open"}) == 309
    assert {sample.answers[0] for sample in found.values() if sample.type == "Sound/yes_no"} == {"yes", "no"}
