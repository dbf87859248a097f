"""GQA: compositional questions about pictures of Visual Genome.

In: `{train,val,testdev}_{balanced,all}_questions.json`, `{question_id: {question, imageId, answer, types, ...}}`;
`train_all_questions` is a folder of such files. The answers of `test` are not published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervised.data.importers.config import ImportConfig
from supervised.data.importers.media import Media
from supervised.data.importers.reading import find_files, read_json
from supervised.data.importers.rows import BadRow, Doubled, Row, identifier, need, text
from supervised.data.importers.shares import THREE, Shares
from supervised.data.sample import Sample
from supervised.errors import DataError

VARIANTS = ("balanced", "all")
SPLITS = ("train", "val", "testdev")
STRUCTURES = ("verify", "query", "choose", "logical", "compare")
SHARES: Shares = {"testdev": THREE["test"], "val": THREE["val"], "train": THREE["train"]}
KEPT = ("question", "imageId", "answer", "types", "structural")
"""The rest (programs, scene-graph annotations, entailed questions) is three quarters of a file, and not used."""


class GQA:
    """The questions of GQA."""

    shares = SHARES

    def __init__(self, config: ImportConfig, root: Path, media: Media) -> None:
        """Find the files."""
        variant = config.variant or VARIANTS[0]
        names = {split: (f"{split}_{variant}_questions.json", f"{split}_{variant}_questions") for split in SPLITS}
        self._files, self._media = find_files(root, names, config.chosen_splits), media

    def __iter__(self) -> Iterator[Row]:
        """Yield the questions of all files, one file in memory at a time."""
        for split, path in self._files.items():
            shards = sorted(path.glob("*.json")) if path.is_dir() else [path]
            if not shards:
                raise DataError(f"{path} holds no JSON file; unpack the dataset's shards into it.")
            for shard in shards:
                content = read_json(shard, _slim)
                if not isinstance(content, dict):
                    raise DataError(f"{shard}: expected an object, one key per question; give the dataset's own file.")
                twice = frozenset(content.twice if isinstance(content, Doubled) else ())
                while content:  # let go of what has been read
                    name = next(iter(content))
                    yield Row(split, f"{shard}, question {name}", (name, content.pop(name), name in twice))

    def samples(self, row: Row) -> list[Sample]:
        """Return the question.

        Raises:
            BadRow: a question or a key stands twice, a key is missing, the structural type is unknown, or the picture
                is missing.
        """
        name, raw, twice = row.raw
        if twice:
            raise BadRow("doubled id", f"question {name!r} stands twice in this file; keep one.")
        image = identifier(raw, "imageId")
        kind = text(need(raw, "types"), "structural")
        if kind not in STRUCTURES:
            raise BadRow("unknown type", f"type {kind!r} is unknown; allowed: {', '.join(STRUCTURES)}; correct it.")
        return [
            Sample(
                f"gqa-{identifier({'question_id': name}, 'question_id')}",
                text(raw, "question"),
                (text(raw, "answer"),),
                self._media.picture(image),
                None,
                "gqa",
                kind,
                f"visualgenome-{image}",
                metric="gqa",
            )
        ]


def _slim(row: dict[str, Any]) -> Any:
    """Keep the keys that are used, of questions and of their types; other objects are kept as they are."""
    if "imageId" in row or "structural" in row:
        return {key: row[key] for key in KEPT if key in row}
    return row
