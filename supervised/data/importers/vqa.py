"""VQAv2, and VizWiz in the same format: open questions about pictures, with ten answers each.

In: a file of questions `{"questions": [{question, image_id, question_id}]}` and one of annotations
`{"annotations": [{question_id, image_id, question_type, answer_type, answers: [{answer, ...} x 10]}]}`, joined by
`question_id`. Test questions, whose answers are not published, are not read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_list
from supervised.data.importers.rows import BadRow, Row, entries, identifier, known, text
from supervised.data.importers.shares import TWO
from supervised.data.sample import Sample

YEARS = {"train": "train2014", "val": "val2014"}
QUESTIONS = {
    "vqav2": {split: (f"v2_OpenEnded_mscoco_{name}_questions.json",) for split, name in YEARS.items()},
    "vizwiz": {split: (f"{split}_questions.json",) for split in ("train", "val")},
}
ANNOTATIONS = {
    "vqav2": {split: (f"v2_mscoco_{name}_annotations.json",) for split, name in YEARS.items()},
    "vizwiz": {split: (f"{split}_annotations.json",) for split in ("train", "val")},
}
TYPES = {"vqav2": ("yes/no", "number", "other"), "vizwiz": ("yes/no", "number", "other", "unanswerable")}
ANSWERS = 10
ASKED = object()
"""Stands in the place of an annotation whose question was read."""


class VQA:
    """The questions of VQAv2 or VizWiz."""

    shares = TWO

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        self._name, self._media = config.dataset, media
        self._files = find_files(root, QUESTIONS[self._name], config.chosen_splits)
        self._answers: dict[str, Path] = {}
        for split in self._files:
            self._answers |= find_files(root, {split: ANNOTATIONS[self._name][split]}, (split,))

    def __iter__(self) -> Iterator[Row]:
        """Yield a row per question with its annotation, then the annotations that have no question."""
        for split, path in self._files.items():
            annotations: dict[str, Any] = {}
            doubled: set[str] = set()
            for number, raw in enumerate(read_list(self._answers[split], _slim, "annotations"), 1):
                try:
                    name = identifier(raw, "question_id")
                except BadRow as problem:
                    yield Row(split, f"{self._answers[split]}, annotation {number}", problem)
                    continue
                if name in annotations:
                    doubled.add(name)
                annotations[name] = raw
            for number, raw in enumerate(read_list(path, None, "questions"), 1):
                where = f"{path}, question {number}"
                try:
                    name = identifier(raw, "question_id")
                except BadRow as problem:
                    yield Row(split, where, problem)
                    continue
                yield Row(split, where, (raw, annotations.get(name), name in doubled))
                annotations[name] = ASKED
            for name, annotation in annotations.items():
                if annotation is not ASKED:
                    yield Row(split, f"{self._answers[split]}, question_id {name}", ({}, annotation, False))

    def samples(self, row: Row) -> list[Sample]:
        """Return the question.

        Raises:
            BadRow: question and annotation do not belong together, a key is missing or doubled, there are not ten
                answers, the type is unknown, or the picture is missing.
        """
        if isinstance(row.raw, BadRow):
            raise row.raw
        raw, annotation, doubled = row.raw
        if not raw and annotation is not None:
            raise BadRow("annotation without question", "no question has this question_id; the files do not match.")
        name = identifier(raw, "question_id")
        if doubled:
            raise BadRow("doubled id", f"question_id {name} stands twice among the annotations; remove one.")
        if annotation is ASKED:
            raise BadRow("doubled id", f"question_id {name} stands twice among the questions; remove one.")
        if annotation is None:
            raise BadRow(
                "question without annotation", f"no annotation has question_id {name}; the files do not match."
            )
        image = identifier(raw, "image_id")
        if identifier(annotation, "image_id") != image:
            raise BadRow(
                "pictures differ", f"question {name} has image_id {image}, its annotation another; correct it."
            )
        answers = entries(annotation, "answers")
        if len(answers) != ANSWERS or not all(isinstance(answer, str) for answer in answers):
            raise BadRow("not ten answers", f"question {name} needs {ANSWERS} answers, has {len(answers)}; correct it.")
        kind = text(annotation, "answer_type" if "answer_type" in annotation else "question_type")
        return [
            Sample(
                f"{self._name}-{name}",
                text(raw, "question"),
                tuple(answers),
                self._picture(row.split, image),
                None,
                self._name,
                known(kind, TYPES[self._name], "type"),
                f"coco-{image}" if self._name == "vqav2" else f"vizwiz-{image}",
            )
        ]

    def _picture(self, split: str, image: str) -> Path:
        return coco_picture(self._media, image, YEARS[split]) if self._name == "vqav2" else self._media.picture(image)


def coco_picture(media: Media, image: str, folder: str) -> Path:
    """Return the picture of COCO with this number, as named in 2014 or in 2017.

    Raises:
        BadRow: the number is none, or the picture is missing.
    """
    if not image.isdecimal():
        raise BadRow("wrong type", f"image_id must be a whole number, got {image!r}; correct it.")
    named = f"COCO_{folder}_{int(image):012d}.jpg"
    return media.picture(f"{folder}/{named}", named, f"{int(image):012d}.jpg")


def _slim(row: dict[str, Any]) -> Any:
    """Keep only the text of an answer: there are ten for each of 650,000 questions."""
    if "answer_confidence" in row or "answer_id" in row:
        answer = row.get("answer")
        return sys.intern(answer) if isinstance(answer, str) else row
    return row
