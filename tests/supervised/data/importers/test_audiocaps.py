from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from supervised.data.importers.templates import HEARD_OPEN, HEARD_YES_NO
from supervised.errors import DataError

REAL = Path(__file__).parents[5] / "shared" / "data" / "audiocaps"
HEADER = ["audiocap_id", "youtube_id", "start_time", "caption"]
ROWS = [
    [97151, "vfY_TJq7n_U", 130, "Rustling occurs, ducks quack and water splashes"],
    [97152, "vfY_TJq7n_U", 130, "Ducks quack"],
    [97153, "-tdWhHV3X25", 60, "An audience gives applause"],
]


def test_a_clip_is_described_with_all_its_captions_and_asked_about_right_and_wrong_ones(folder: Any) -> None:
    folder.csv("val.csv", [HEADER, *ROWS])
    folder.media("audio/vfY_TJq7n_U_130.flac", "audio/-tdWhHV3X25_60.flac", "videos/-tdWhHV3X25_60.mp4")
    found = folder.run("audiocaps")
    opened = found["audiocaps-vfY_TJq7n_U_130-open"]
    assert opened.question in HEARD_OPEN
    assert opened.answers == ("Rustling occurs, ducks quack and water splashes", "Ducks quack")
    assert (opened.metric, opened.type, opened.group) == ("bleu", "Caption/open", "youtube-vfY_TJq7n_U")
    assert opened.image is None
    right, wrong = (found[f"audiocaps-vfY_TJq7n_U_130-{name}"] for name in ("yes", "no-1"))
    assert right.question in {form.format(text=caption) for form in HEARD_YES_NO for caption in opened.answers}
    assert wrong.question in {form.format(text="An audience gives applause") for form in HEARD_YES_NO}
    assert (right.answers, wrong.answers, wrong.type) == (("yes",), ("no",), "Caption/yes_no")
    assert found["audiocaps--tdWhHV3X25_60-open"].image.name == "-tdWhHV3X25_60.mp4"


@pytest.mark.parametrize("name", ["vfY_TJq7n_U_130.wav", "vfY_TJq7n_U_000130.mp3", "vfY_TJq7n_U_130000.ogg"])
def test_a_clip_is_found_by_each_of_its_usual_names(folder: Any, name: str) -> None:
    folder.csv("dataset/val.csv", [HEADER, ROWS[0]])
    folder.media(f"clips/{name}")
    assert folder.run("audiocaps")["audiocaps-vfY_TJq7n_U_130-open"].audio.name == name


def test_either_form_of_question_can_be_left_out_and_negatives_counted(folder: Any) -> None:
    folder.csv("val.csv", [HEADER, *([i, f"clip{i:07d}", 0, f"sound {i}"] for i in range(9))])
    folder.media(*(f"audio/clip{i:07d}_0.wav" for i in range(9)))
    assert len(folder.run("audiocaps", questions="open")) == 9
    found = folder.run("audiocaps", questions="yes_no", negatives=3)
    assert folder.report.types == {"Caption/yes_no": 36}
    for i in range(9):
        wrong = {found[f"audiocaps-clip{i:07d}_0-no-{n}"].question for n in (1, 2, 3)}
        assert len({re.findall(r'"(.*)"', question)[0] for question in wrong} - {f"sound {i}"}) == 3


def test_equal_seeds_give_equal_manifests_and_other_seeds_other_ones(folder: Any) -> None:
    folder.csv("val.csv", [HEADER, *([i, f"clip{i:07d}", 0, f"sound {i}"] for i in range(20))])
    folder.media(*(f"audio/clip{i:07d}_0.wav" for i in range(20)))
    first, again, other = (folder.run("audiocaps", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert {name: sample.question for name, sample in first.items()} != {n: s.question for n, s in other.items()}
    assert {name: sample.split for name, sample in first.items()} != {n: s.split for n, s in other.items()}


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ([5, "abc", "1.5", "x"], "wrong type", "start_time must be whole seconds, got '1.5'"),
        ([97151, "abc", 1, "x"], "doubled id", "audiocap_id 97151 stands twice"),
        ([5, "abc", 1, " "], "blank text", "'caption' is blank"),
        ([5, "abc", 1, "x", "y"], "not an object", "expected one value for each key or column, got"),
        ([5, "abc", 1], "not an object", "expected one value for each key or column, got"),
        ([5, "abc", 1, "x"], "sound missing", "no sound or video 'abc_1'"),
    ],
)
def test_a_faulty_line_is_named_or_skipped_and_counted(folder: Any, row: Any, kind: str, message: str) -> None:
    folder.csv("val.csv", [HEADER, ROWS[0], row])
    folder.media("audio/vfY_TJq7n_U_130.flac")
    with pytest.raises(DataError, match=rf"val\.csv, line 3: .*{re.escape(message)}"):
        folder.run("audiocaps")
    folder.run("audiocaps", on_error="skip")
    assert folder.report.reasons == {kind: 1}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["audiocap_id", "youtube_id", "start_time"], "column 'caption' is missing; needed: audiocap_id, youtube_id"),
        ([*HEADER, "caption"], "column 'caption' stands twice"),
        ([], "column 'audiocap_id' is missing"),
    ],
)
def test_a_header_that_lacks_or_doubles_a_column_is_refused(folder: Any, header: list[str], message: str) -> None:
    folder.csv("val.csv", [header] if header else [])
    with pytest.raises(DataError, match=rf"val\.csv, line 1: {message}"):
        folder.run("audiocaps")


def test_both_editions_under_one_root_are_not_mixed(folder: Any) -> None:
    for name in ("dataset", "dataset2.0"):
        folder.csv(f"{name}/val.csv", [HEADER, ROWS[0]])
    with pytest.raises(DataError, match=r"split 'val' has two files, .*dataset/val\.csv and .*dataset2\.0/val\.csv"):
        folder.run("audiocaps")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="AudioCaps' captions are not beside the checkout")
def test_the_real_files_hold_495_and_975_clips_with_five_captions(folder: Any) -> None:
    for split in ("val", "test"):
        content = (REAL / f"{split}.csv").read_text(encoding="utf-8")
        folder.json(f"{split}.csv", content)
        folder.media(
            *(f"audio/{row['youtube_id']}_{row['start_time']}.flac" for row in csv.DictReader(content.splitlines()))
        )
    found = folder.run("audiocaps")
    assert folder.report.own_splits == {"val": 3 * 495, "test": 3 * 975}
    assert {len(sample.answers) for sample in found.values() if sample.type == "Caption/open"} == {5}
    assert not folder.report.left_out
