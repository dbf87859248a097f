from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.data.importers.music_avqa import ANSWERS, PLACEHOLDERS, cluster, fill, texts
from supervised.data.importers.rows import BadRow
from supervised.errors import DataError
from supervised.metrics.types import MUSIC_AVQA_TYPES

REAL = Path(__file__).parents[5] / "shared" / "data" / "music_avqa"
ROW = {
    "video_id": "00000288",
    "question_id": 11,
    "type": '["Visual", "Location"]',
    "question_content": "What is the instrument on the <LR> of <Object>?",
    "templ_values": '["left", "electric_bass"]',
    "question_deleted": 0,
    "anser": "acoustic_guitar",
}


def rows(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows that differ from `ROW` as told, with ids of their own."""
    return [ROW | {"question_id": number} | change for number, change in enumerate(changes)]


def test_a_row_becomes_a_question_with_its_tags_filled(folder: Any) -> None:
    folder.json("avqa-test.json", rows({}))
    folder.media("videos/00000288.mp4")
    sample = folder.run("music_avqa")["music_avqa-test-0"]
    assert sample.question == "What is the instrument on the left of electric bass?"
    assert sample.answers == ("acoustic guitar",)
    assert (sample.type, sample.group, sample.split) == ("Visual/Location", "musicavqa-00000288", "test")
    assert sample.retention_set is sample.difficulty is None
    assert sample.image == sample.audio
    assert sample.image.name == "00000288.mp4"


def test_extracted_pictures_and_clips_go_before_the_video(folder: Any) -> None:
    folder.json("data/json_update/avqa-test.json", rows({}))
    folder.media("videos/00000288.mp4", "frames/00000288.png", "audio/00000288.flac")
    sample = folder.run("music_avqa")["music_avqa-test-0"]
    assert (sample.image.name, sample.audio.name) == ("00000288.png", "00000288.flac")


def test_both_spellings_of_every_key_are_read(folder: Any) -> None:
    other = {"type": ["Audio", "Counting"], "templ_values": "['left', 'pipa']", "answer": "More than ten"}
    without = {key: value for key, value in (ROW | other | {"question_id": 5}).items() if key != "anser"}
    del without["question_deleted"]
    folder.json("avqa-test.json", [without])
    folder.media("00000288.mp4")
    sample = folder.run("music_avqa")["music_avqa-test-5"]
    assert (sample.type, sample.answers, sample.question[-13:]) == (
        "Audio/Counting",
        ("more than ten",),
        "left of pipa?",
    )


@pytest.mark.parametrize(
    ("template", "values", "question"),
    [
        ("Is the <Object> louder than the <Object>?", ["guzheng", "piano"], "Is the guzheng louder than the piano?"),
        (
            "Is the <FL> sound coming from the <LR> one? ",
            ["first", "left"],
            "Is the first sound coming from the left one?",
        ),
        ("Where is the <TH> sounding <Object>?", ["fifth", "drum"], "Where is the fifth sounding drum?"),
        ("What is the <LRer> instrument?", ["rightest"], "What is the rightest instrument?"),
        ("Which is the <LL> <Object>?", ["lowest", "erhu"], "Which is the lowest erhu?"),
        ("Which sounds <BA> the <Object>?", ["before", "suona"], "Which sounds before the suona?"),
        ("How many sounding <Object> in the video\uff1f", ["banjo"], "How many sounding banjo in the video?"),
        ("Is there a voiceover?", [], "Is there a voiceover?"),
    ],
)
def test_every_placeholder_is_filled_by_position(template: str, values: list[str], question: str) -> None:
    assert fill(template, values) == question


@given(
    st.lists(st.tuples(st.sampled_from(PLACEHOLDERS), st.from_regex(r"[a-z]+(_[a-z]+)?", fullmatch=True)), max_size=5),
    st.text("ab ?\uff1f\\", max_size=5),
)
def test_whatever_the_tags_all_values_stand_in_the_question_in_order(pairs: list[tuple[str, str]], end: str) -> None:
    question = fill(" and ".join(["Is it", *(tag for tag, _ in pairs)]) + end, [value for _, value in pairs])
    assert question.startswith(" and ".join(["Is it", *(value.replace("_", " ") for _, value in pairs)]))
    assert not set(question) & set("<>\uff1f")


@given(st.text(st.characters(blacklist_characters="<>"), max_size=8))
def test_any_other_tag_is_refused(name: str) -> None:
    if f"<{name}>" not in PLACEHOLDERS:
        with pytest.raises(BadRow, match=re.escape(f"placeholder <{name}> is unknown; allowed: <Object>")):
            fill(f"Is it <{name}>?", ["left"])


@given(st.lists(st.text(max_size=5), max_size=4))
def test_a_list_of_texts_is_read_as_it_is_as_json_and_as_python(values: list[str]) -> None:
    assert texts(values, "type") == texts(json.dumps(values), "type") == texts(repr(values), "type") == values


@given(st.text(max_size=12))
def test_any_text_that_is_no_list_is_refused(value: str) -> None:
    with pytest.raises(BadRow, match="'type' must be a list of texts"):
        texts(value.replace("]", ""), "type")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"question_content": "Is the <Instrument> here?"},
            "unknown placeholder",
            "placeholder <Instrument> is unknown",
        ),
        ({"question_content": "Is the <LR here?", "templ_values": "[]"}, "unknown placeholder", "half a placeholder"),
        ({"templ_values": '["left"]'}, "placeholders and values differ", "2 placeholders and 1 values"),
        ({"templ_values": '["left", "<Object>"]'}, "bad value", "value '<Object>' of a placeholder is no name"),
        ({"templ_values": "left"}, "wrong type", "'templ_values' must be a list of texts"),
        (
            {"type": '["Audio", "Temporal"]'},
            "unknown type",
            "type 'Audio/Temporal' is unknown; allowed: Audio/Counting",
        ),
        ({"anser": "theremin"}, "unknown answer", "answer 'theremin' is none of the 42"),
        ({"anser": None}, "missing key", "key 'anser' is missing"),
        ({"video_id": 1.5}, "wrong type", "'video_id' must be a text or a whole number, got 1.5"),
        ({"video_id": "../x"}, "bad name", "leads out of"),
        ({"video_id": "00000001"}, "picture missing", "no picture or video '00000001' under"),
    ],
)
def test_a_faulty_row_is_named_or_skipped_and_counted(folder: Any, change: Any, kind: str, message: str) -> None:
    folder.json("avqa-test.json", rows({}, change))
    folder.media("00000288.mp4")
    with pytest.raises(DataError, match=rf"avqa-test\.json, row 2: .*{re.escape(message)}"):
        folder.run("music_avqa")
    assert list(folder.run("music_avqa", on_error="skip")) == ["music_avqa-test-0"]
    assert folder.report.reasons == {kind: 1}


def test_a_doubled_key_is_named_with_its_row(folder: Any) -> None:
    text = json.dumps(rows({}, {}))
    folder.json("avqa-test.json", text[:-2] + ', "anser": "no"}]')
    folder.media("00000288.mp4")
    with pytest.raises(DataError, match=r"avqa-test\.json, row 2: key 'anser' stands twice in the object; keep one"):
        folder.run("music_avqa")


def test_an_empty_video_is_refused(folder: Any) -> None:
    folder.json("avqa-test.json", rows({}))
    (folder.root / "00000288.mp4").touch()
    with pytest.raises(DataError, match=r"row 1: picture .*00000288\.mp4 is empty \(0 bytes\); get it, or leave"):
        folder.run("music_avqa")


def test_a_doubled_question_id_is_refused(folder: Any) -> None:
    folder.json("avqa-test.json", [ROW, ROW])
    folder.media("00000288.mp4")
    with pytest.raises(DataError, match=r"row 2: id 'music_avqa-test-11' stands twice; remove one"):
        folder.run("music_avqa")


def test_a_deleted_question_is_left_out_without_an_error(folder: Any) -> None:
    folder.json("avqa-test.json", rows({}, {"question_deleted": 1}))
    folder.media("00000288.mp4")
    assert len(folder.run("music_avqa")) == 1
    assert folder.report.reasons == {"question_deleted is set": 1}


def test_test_keeps_a_video_that_val_shares(folder: Any) -> None:
    folder.json("avqa-val.json", rows({}, {"video_id": "00000001"}))
    folder.json("avqa-test.json", rows({"video_id": "sa00000288"}))
    folder.media("00000288.mp4", "sa00000288.mp4", "00000001.mp4")
    found = folder.run("music_avqa")
    assert set(found) == {"music_avqa-val-1", "music_avqa-test-0"}
    assert found["music_avqa-val-1"].split in ("validation", "calibration")
    assert folder.report.reasons == {"its video or picture stands in the dataset's own split 'test' as well": 1}
    assert folder.report.left_out[0][0].endswith("avqa-val.json, row 1")


def test_the_clusters_of_copies_are_those_of_their_originals() -> None:
    names = [
        "va00003337",
        "00003337_flip",
        "_CfvTX_Q7mg",
        "_CfvTX_Q7mg_flip",
        "6cjIJVzP6eI_#04",
        "6cjIJVzP6eI_#02_flip",
    ]
    assert [cluster(name) for name in names] == [
        *["musicavqa-00003337"] * 2,
        *["youtube-_CfvTX_Q7mg"] * 2,
        *["youtube-6cjIJVzP6eI"] * 2,
    ]


# -- v2.0 -------------------------------------------------------------------------------------------------------------


def test_v2_rows_without_an_id_are_named_by_video_and_row(folder: Any) -> None:
    row = {key: value for key, value in ROW.items() if key not in ("question_id", "question_deleted")}
    folder.json("data/balance_full_set/test_balance.json", [ROW | {"question_id": 47859.0}, row])
    folder.media("00000288.mp4")
    assert list(folder.run("music_avqa_v2")) == ["music_avqa_v2-test-47859", "music_avqa_v2-test-00000288#2"]


def test_v2_sound_of_another_video_is_taken_from_there_and_joins_the_clusters(folder: Any) -> None:
    unmatched = {
        "video_id": "sa00006547",
        "unmatch_audio": "00008531",
        "question_content": "Is this sound from the instrument in the video?",
        "anser": "no",
        "templ_values": [],
        "type": '["Audio-Visual", "Existential"]',
    }
    folder.json("test_balance.json", [unmatched])
    folder.json("balance_valid.json", rows({"video_id": "00008531"}, {"video_id": "00000001"}))
    folder.media("frames/sa00006547.jpg", "frames/00008531.jpg", "frames/00000001.jpg")
    folder.media("audio/sa00006547.wav", "audio/00008531.wav", "audio/00000001.wav")
    found = folder.run("music_avqa_v2")
    assert set(found) == {
        "music_avqa_v2-test-sa00006547#1",
        "music_avqa_v2-val-1",
    }  # the sound's own video is tested on
    sample = found["music_avqa_v2-test-sa00006547#1"]
    assert (sample.image.name, sample.audio.name) == ("sa00006547.jpg", "00008531.wav")
    assert sample.group == "musicavqa-00006547"


def test_v2_has_two_variants(folder: Any) -> None:
    folder.json("test_bias.json", rows({}))
    folder.media("00000288.mp4")
    assert len(folder.run("music_avqa_v2", variant="bias")) == 1
    with pytest.raises(
        DataError, match=r"no annotations under .*; looked for train_balance\.json, balance_valid\.json"
    ):
        folder.run("music_avqa_v2")


# -- the real files ---------------------------------------------------------------------------------------------------


def lay_out_real_files(folder: Any) -> None:
    """Put the annotations of val and test into the folder, with a file for every video that they name."""
    videos: set[str] = set()
    for name in ("avqa-val.json", "avqa-test.json"):
        content = (REAL / name).read_text(encoding="utf-8")
        folder.json(name, content)
        videos |= {row["video_id"] for row in json.loads(content)}
    folder.media(*(f"videos/{name}.mp4" for name in videos))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="MUSIC-AVQA's annotations are not beside the checkout")
def test_every_row_of_the_real_files_becomes_a_question(folder: Any) -> None:
    lay_out_real_files(folder)
    found = folder.run("music_avqa", splits="group")
    assert len(found) == 4568 + 9129
    assert not folder.report.left_out
    assert set(folder.report.types) == set(MUSIC_AVQA_TYPES)
    tested = [sample for name, sample in found.items() if "-test-" in name]
    assert sum(sample.type == "Audio/Counting" for sample in tested) == 1017
    assert sum(sample.type.startswith("Audio-Visual/") for sample in tested) == 5096
    assert {sample.answers[0] for sample in found.values()} == set(ANSWERS) - {"ten"}
    assert not any(set(sample.question) & set("<>_\uff1f") for sample in found.values())
    assert "Is the first sound coming from the left instrument?" in {sample.question for sample in found.values()}
    split_of: dict[str, set[str]] = {}
    for sample in found.values():
        split_of.setdefault(sample.group, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert len(split_of) > 7000


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="MUSIC-AVQA's annotations are not beside the checkout")
def test_the_real_test_split_stays_whole_where_val_shares_its_videos(folder: Any) -> None:
    lay_out_real_files(folder)
    folder.run("music_avqa")
    assert folder.report.own_splits == {"test": 9129, "val": 1757}
    assert sum(folder.report.reasons.values()) == 4568 - 1757
