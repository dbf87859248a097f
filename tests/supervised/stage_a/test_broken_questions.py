"""Questions that cannot be used: named with file and line, replaced, or left out and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from written_questions import equal, prepared, streamed, write

from supervised.data.manifest import read_manifest
from supervised.errors import DataError
from supervised.safe_model import SafeModel
from supervised.stage_a import examples as stage_a_examples
from supervised.stage_a.examples import Examples


def test_a_broken_clip_is_named_with_file_and_line_kept_or_streamed(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_manifest(write(tmp_path, 6))
    examples = streamed(monkeypatch, llava, samples)
    (tmp_path / "3.wav").write_bytes(b"RIFF")
    (tmp_path / "4.png").unlink()
    assert examples.batch([0, 1, 2]).rows == [0, 1, 2]
    message = r"m\.jsonl, line 4: sample 'gqa-3': clip .*3\.wav cannot be decoded"
    with pytest.raises(DataError, match=message):
        examples.batch([0, 3])
    with pytest.raises(DataError, match=r"m\.jsonl, line 5: image file .*4\.png does not exist"):
        examples.batch([4])
    monkeypatch.undo()
    with pytest.raises(DataError, match=message):
        prepared(llava, samples)


def test_a_broken_question_is_replaced_by_the_next_of_its_kind_and_counted(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_manifest(write(tmp_path, 8))
    examples = streamed(monkeypatch, llava, samples, on_error="replace")
    for name in ("3.wav", "5.png", "6.wav"):
        (tmp_path / name).unlink()
    batch = examples.batch([3, 6, 2])
    assert batch.rows == [7, 0, 2]  # 5 is broken like 3; after 6 comes 0 again
    assert equal(batch, replace(examples.batch([7, 0, 2])))
    assert [each["id"] for each in examples.left_out] == ["question 3", "question 5", "question 6"]
    assert all("does not exist" in each["reason"] for each in examples.left_out)
    examples.batch([3])
    assert len(examples.left_out) == 3
    for name in ("1.wav", "7.wav"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"line 4: .* None of the questions of its kind that follow can take its place"):
        examples.batch([3])


@pytest.mark.parametrize("kind", ["kept", "streamed"])
def test_broken_questions_are_left_out_of_what_is_evaluated(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    samples = read_manifest(write(tmp_path, 8))
    (tmp_path / "2.wav").write_bytes(b"RIFF")
    monkeypatch.setattr(stage_a_examples, "CACHE_BYTES", 1 << 30 if kind == "kept" else 0)
    examples = Examples(llava, samples, [1, 2, 5, 6], lambda _: None, on_error="leave_out")
    assert (examples.kept, len(examples)) == (kind == "kept", 3)
    assert [question.id for question in examples.questions] == ["gqa-1", "gqa-5", "music-6"]
    assert examples.retention.tolist() == [True, True, False]
    [entry] = examples.left_out
    assert entry["id"] == "music-2"
    assert "line 3: sample 'music-2': clip" in entry["reason"]


def test_an_answer_without_a_token_is_refused_with_its_line(llava: SafeModel, tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    path.write_text(path.read_text().replace('"red one"', '" "'))
    with pytest.raises(DataError, match=r"m\.jsonl, line 2: sample 'gqa-1': answer .* has no token"):
        prepared(llava, read_manifest(path))
