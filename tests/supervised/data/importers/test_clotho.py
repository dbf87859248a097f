from __future__ import annotations

from typing import Any

import pytest

from supervised.data.importers.templates import SOUND_YES_NO
from supervised.errors import DataError

HEADER = ["file_name", *(f"caption_{number}" for number in range(1, 6))]
NAMES = ["Distorted AM Radio noise.wav", "Señor, 2nd take (wet).wav"]
ROWS = [[name, *(f"caption {number} of {name[:3]}" for number in range(1, 6))] for name in NAMES]
METADATA = ["file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"]
REST = ["1", "https://x", "[0, 5]", "someone", "CC0"]


def test_five_captions_of_a_clip_whose_name_holds_spaces_and_marks(folder: Any) -> None:
    folder.csv("clotho_captions_evaluation.csv", [HEADER, *ROWS])
    folder.media(f"evaluation/{NAMES[0]}", f"audio/{NAMES[1]}")
    found = folder.run("clotho")
    opened = found[f"clotho-{NAMES[1]}-open"]
    assert opened.answers == tuple(ROWS[1][1:])
    assert (opened.audio.name, opened.image, opened.split) == (NAMES[1], None, "test")
    assert len(found) == 6


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8", ","), ("iso-8859-1", ","), ("iso-8859-1", ";")])
def test_keywords_are_asked_about_in_every_encoding_and_with_either_delimiter(
    folder: Any, encoding: str, delimiter: str
) -> None:
    words = ["radio;noise;café", "wet voice;gravel;"]
    folder.csv("clotho_captions_development.csv", [HEADER, *ROWS])
    rows = [[name, said, *REST] for name, said in zip(NAMES, words, strict=True)]
    folder.csv("clotho_metadata_development.csv", [METADATA, *rows], encoding, delimiter)
    folder.media(*(f"development/{name}" for name in NAMES))
    found = folder.run("clotho")
    yes, no = (found[f"clotho-keywords-{NAMES[0]}-{name}"] for name in ("yes", "no-1"))
    assert yes.question in {form.format(text=word) for form in SOUND_YES_NO for word in ("radio", "noise", "café")}
    assert no.question in {form.format(text=word) for form in SOUND_YES_NO for word in ("wet voice", "gravel")}
    assert (yes.type, yes.group) == ("Sound/yes_no", f"clotho-{NAMES[0]}")
    assert not [name for name in found if "keywords" in name and name.endswith("open")]


def test_a_clip_that_stands_twice_or_lacks_a_caption_is_named(folder: Any) -> None:
    folder.csv("clotho_captions_evaluation.csv", [HEADER, ROWS[0], ROWS[0], [*ROWS[1][:5], ""]])
    folder.media(f"audio/{NAMES[0]}")
    with pytest.raises(DataError, match=r"evaluation\.csv, line 3: file_name 'Distorted .*' stands twice"):
        folder.run("clotho")
    assert len(folder.run("clotho", on_error="skip", questions="open")) == 1
    assert folder.report.reasons == {"doubled id": 1, "blank text": 1}


def test_the_metadata_must_have_the_column_of_keywords(folder: Any) -> None:
    folder.csv("clotho_captions_evaluation.csv", [HEADER, *ROWS])
    folder.csv("clotho_metadata_evaluation.csv", [["file_name", "tags"], [NAMES[0], "x"]])
    folder.media(*(f"audio/{name}" for name in NAMES))
    with pytest.raises(DataError, match=r"metadata_evaluation\.csv, line 1: column 'keywords' must stand there once"):
        folder.run("clotho")
