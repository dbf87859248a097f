from __future__ import annotations

from typing import Any

import pytest

from supervised.data.importers.templates import SAID_OPEN, SAID_YES_NO
from supervised.errors import DataError

TEXT = "Text:  {said}\nConf:  4\nRef: 00j9bKdiOjk\n\nWORD START END ASDSCORE\nTHE 0.00 0.17 4.1\n"


def clip(folder: Any, name: str, said: str, *media: str) -> None:
    path = folder.root / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXT.format(said=said), encoding="utf-8")
    folder.media(*(media or [f"{name}.mp4"]))


def test_a_clip_is_asked_for_what_is_said_in_lower_case(folder: Any) -> None:
    clip(folder, "test/0Fi83BHQsMA/00002", "BECAUSE IT'S A {LG} LIE  TODAY")
    clip(folder, "test/0akiEFwtkyA/00001", "SO LET ME BEGIN", "test/0akiEFwtkyA/00001.wav")
    found = folder.run("lrs3")
    opened = found["lrs3-test/0Fi83BHQsMA/00002-open"]
    assert opened.question in SAID_OPEN
    assert (opened.answers, opened.metric, opened.type) == (("because it's a lie today",), "bleu", "Speech/open")
    assert (opened.group, opened.split) == ("youtube-0Fi83BHQsMA", "test")
    assert opened.image == opened.audio
    wrong = found["lrs3-test/0Fi83BHQsMA/00002-no-1"]
    assert wrong.question in {form.format(text="so let me begin") for form in SAID_YES_NO}
    other = found["lrs3-test/0akiEFwtkyA/00001-open"]
    assert (other.image, other.audio.name) == (None, "00001.wav")


def test_the_clips_of_one_talk_stay_together_across_pretrain_and_trainval(folder: Any) -> None:
    for number in range(30):
        clip(folder, f"pretrain/talk{number}/00001", f"PART {number}")
        clip(folder, f"trainval/talk{number}/50001", f"MORE {number}")
    found = folder.run("lrs3", questions="open")
    assert len(found) == 60
    for number in range(30):
        assert len({sample.split for name, sample in found.items() if f"talk{number}/" in name}) == 1
    assert folder.report.splits["test"] == 0


def test_silence_is_left_out_and_another_first_line_refused(folder: Any) -> None:
    clip(folder, "test/a/1", "HELLO")
    clip(folder, "test/a/2", "{NS}")
    assert len(folder.run("lrs3", questions="open")) == 1
    assert folder.report.reasons == {"nothing is said": 1}
    (folder.root / "test/a/3.txt").write_text("Transcript: HELLO\n")
    with pytest.raises(
        DataError, match=r"a/3\.txt, line 1: expected 'Text:  \.\.\.' in the first line, got 'Transcript"
    ):
        folder.run("lrs3")


def test_a_clip_without_media_and_a_root_without_splits_are_named(folder: Any) -> None:
    with pytest.raises(DataError, match=r"no such folder under .*: test/, trainval/, pretrain/; give the folder"):
        folder.run("lrs3")
    clip(folder, "test/a/1", "HELLO", "elsewhere/1.mp4")
    with pytest.raises(DataError, match=r"a/1\.txt: no sound or video 'test/a/1' under"):
        folder.run("lrs3")
    with pytest.raises(DataError, match=r"no such folder under .*: pretrain/"):
        folder.run("lrs3", split="test,pretrain")
