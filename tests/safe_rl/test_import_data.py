"""One command makes a manifest of a dataset's own files, says what is in it and what is not; others read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from safe_rl.import_data import main
from supervised.data.manifest import read_manifest
from supervised.data.sample import SPLITS

TEMPLATES = [
    ("Audio", "Counting", "How many types of musical instruments sound in the video?", [], "two"),
    ("Visual", "Location", "What is the instrument on the <LR> of <Object>?", ["left", "piano"], "electric_bass"),
    ("Audio-Visual", "Existential", "Is the <Object> in the video always playing?", ["ukulele"], "yes"),
]


def music_avqa(root: Path, videos: int) -> Path:
    """Write questions about some videos, in the published form, with pictures and clips."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for folder in ("frames", "audio"):
        (root / folder).mkdir(parents=True)
    for number in range(videos):
        name = f"{number:08d}"
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(root / "frames" / f"{name}.png")
        tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(12_000) / 16_000)
        soundfile.write(root / "audio" / f"{name}.wav", tone + rng.normal(0, 0.02, len(tone)), 16_000)
        for kind, topic, question, values, answer in TEMPLATES:
            rows.append(
                {
                    "video_id": name,
                    "question_id": len(rows),
                    "type": json.dumps([kind, topic]),
                    "question_content": question,
                    "templ_values": json.dumps(values),
                    "question_deleted": 0,
                    "anser": answer,
                }
            )
    (root / "avqa-test.json").write_text(json.dumps(rows))
    return root


def vqav2(root: Path, pictures: int) -> Path:
    """Write questions about some pictures, in the published form."""
    rng, questions, annotations = np.random.default_rng(1), [], []
    (root / "val2014").mkdir(parents=True)
    for number in range(pictures):
        picture = Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8))
        picture.save(root / "val2014" / f"COCO_val2014_{number:012d}.jpg")
        key = {"image_id": number, "question_id": 10 * number}
        answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": i} for i in range(10)]
        questions.append(key | {"question": "what is the colour of the dog ?"})
        annotations.append(key | {"question_type": "what", "answer_type": "other", "answers": answers})
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return root


def test_the_counts_are_printed_by_split_type_and_retention_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = vqav2(tmp_path / "vqav2", 3), tmp_path / "vqav2.jsonl"
    assert main(["vqav2", "--root", str(root), "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "test                   3         3" in shown.out
    assert "retention set:\n          3  vqav2" in shown.out
    assert "type:\n          3  other" in shown.out
    assert f"Manifest: {out} (3 questions, vqav2)" in shown.out
    assert "warning: no question in adapter, train, validation, calibration; import more" in shown.err
    assert shown.err.endswith("or divide it anew with --splits group.\n")
    assert len(read_manifest(out)) == 3
    assert main(["vqav2", "--root", str(root), "--out", str(out), "--splits", "group"]) == 0
    assert "import more of the dataset's splits.\n" in capsys.readouterr().err  # it was divided anew


def test_missing_media_stop_the_import_or_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = music_avqa(tmp_path / "music", 2), tmp_path / "music.jsonl"
    (root / "audio" / "00000001.wav").unlink()
    command = ["music_avqa", "--root", str(root), "--out", str(out)]
    assert main(command) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "avqa-test.json, row 4: no sound or video '00000001' under" in shown
    assert not out.exists()
    assert main([*command, "--on_error", "skip"]) == 0
    told = capsys.readouterr()
    assert "left out because:\n          3  sound missing" in told.out
    assert f"warning: 3 left out; {tmp_path / 'music.left_out.jsonl'} says which and why." in told.err
    assert len(read_manifest(out)) == 3


def test_a_misspelt_dataset_or_option_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vqa2", "--root", str(tmp_path)]) == 2
    assert "did you mean vqav2?" in capsys.readouterr().err
    assert main([]) == 2
    assert "no dataset is named; allowed: music_avqa," in capsys.readouterr().err
    assert main(["vqav2", "--rot", str(tmp_path)]) == 2
    assert "unknown option --rot, did you mean --root; " in capsys.readouterr().err
    assert main([]) == 2
    assert "allowed: music_avqa, music_avqa_v2, avqa" in capsys.readouterr().err


@pytest.mark.slow
def test_imported_manifests_train_a_policy(tiny: list[str], tmp_path: Path) -> None:
    """Two datasets of real form, one of them for retention, joined into one manifest, through all stages."""
    from safe_rl.train_policy import main as train_policy

    roots = {"music_avqa": music_avqa(tmp_path / "music", 30), "vqav2": vqav2(tmp_path / "vqav2", 60)}
    more = {"music_avqa": [], "vqav2": ["--sounds", str(tmp_path / "music_avqa.jsonl")]}
    for name, root in roots.items():
        out = str(tmp_path / f"{name}.jsonl")
        assert main([name, "--root", str(root), "--out", out, "--splits", "group", *more[name]]) == 0
    joined = tmp_path / "joined.jsonl"
    joined.write_text("".join((tmp_path / f"{name}.jsonl").read_text() for name in roots))
    assert {sample.split for sample in read_manifest(joined)} == set(SPLITS)
    run_dir = tmp_path / "run"
    assert train_policy([*tiny, "--data.manifest", str(joined), "--run_dir", str(run_dir)]) == 0
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["test_questions"] == sum(sample.split == "test" for sample in read_manifest(joined))
    records = [
        json.loads(line) for path in (run_dir / "table").glob("part-*.jsonl") for line in path.read_text().splitlines()
    ]
    assert {"Audio/Counting", "Visual/Location", "other"} <= {record["type"] for record in records}
