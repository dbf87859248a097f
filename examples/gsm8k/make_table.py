"""Turn a cache of two language models' answers into an outcome table: skip is the weak model, use the strong one.

    python examples/gsm8k/make_table.py --responses two_arm_responses.csv --out TABLE [--folds 5 --fold 0]

The file is RouteLLM's cache of GSM8K (columns: prompt, weak model right, strong model right, weak response, strong
response; Ong et al. 2024, arXiv:2406.18665). One fold becomes the test split, a fifth of the others validation, the
rest train. The features are known before any model answers: TF-IDF of the prompt, reduced by an SVD, both fitted on
the train rows only, and counts of what stands in the prompt.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.table_format import TABLE_SPLITS, Header
from envs.table_writer import TableWriter
from supervised.errors import DataError, SafeError
from supervised.files import sha256_file

COMPONENTS = 32
"""Width of the reduced TF-IDF vectors."""
CHARACTERS_PER_TOKEN = 4.0
WEAK_MS_PER_TOKEN, STRONG_MS_PER_TOKEN = 10.0, 30.0
"""Nominal speed of the two models: nobody timed them. A response's latency is that of its length."""
PATTERNS = {
    "numbers": r"\d[\d,.]*",
    "money": r"\$",
    "percent": r"%|percent",
    "fractions": r"\d/\d|\bhalf\b|\bthird\b|\bquarter\b",
    "multiples": r"\btimes\b|\btwice\b|\bdouble\b|\bthrice\b|\btriple\b",
    "rates": r"\bper\b|\beach\b|\bevery\b",
    "comparisons": r"\bmore\b|\bless\b|\bfewer\b|\bthan\b",
    "conditions": r"\bif\b|\bafter\b|\bthen\b|\bremain|\bleft\b",
    "times": r"\bhours?\b|\bminutes?\b|\bdays?\b|\bweeks?\b|\byears?\b",
}
"""What is counted in a prompt, by regular expressions on lower-case text."""


@dataclass(frozen=True)
class Responses:
    """What two models answered to n prompts."""

    models: tuple[str, str]
    """Names of the weak and the strong model."""
    prompts: list[str]
    correct: np.ndarray
    """Whether weak and strong are right, bool [n, 2]."""
    texts: list[tuple[str, str]]
    """Their responses."""

    def __len__(self) -> int:
        return len(self.prompts)


def read_responses(path: Path) -> Responses:
    """Read the cache; a prompt that stands in it twice counts once.

    Raises:
        DataError: the file is missing, or its columns or values are others.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give RouteLLM's gsm8k_responses.csv with --responses.")
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    weak, strong = (*head[1:3], "", "")[:2]
    if head != ["prompt", weak, strong, f"{weak}_response", f"{strong}_response"]:
        raise DataError(
            f"{path} has the columns {head}, allowed are prompt, weak, strong, weak_response, strong_response; "
            "give RouteLLM's gsm8k_responses.csv."
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(head) or not {row[1], row[2]} <= {"True", "False"}:
            raise DataError(f"{path}, row {number}: {row[1:3]} must be True or False; correct the row.")
    rows = list({row[0]: row for row in rows}.values())
    if not rows:
        raise DataError(f"{path} has no rows; give RouteLLM's gsm8k_responses.csv.")
    correct = np.array([[row[1] == "True", row[2] == "True"] for row in rows])
    return Responses((weak, strong), [row[0] for row in rows], correct, [(row[3], row[4]) for row in rows])


def split_codes(rows: int, folds: int, fold: int, seed: int = 0) -> np.ndarray:
    """Return the split of every row, uint8 [n]: over all folds every row is a test row exactly once.

    Raises:
        DataError: there is no such fold, or there are too few rows for it.
    """
    if not (2 <= folds and 5 * folds <= rows and 0 <= fold < folds):
        raise DataError(f"fold {fold} of {folds} is not possible with {rows} rows; use e.g. --folds 5 --fold 0.")
    order = np.random.default_rng(seed).permutation(rows)
    test = np.array_split(order, folds)[fold]
    others = np.setdiff1d(order, test, assume_unique=True)  # in the order of `order`
    codes = np.full(rows, TABLE_SPLITS.index("train"), dtype=np.uint8)
    codes[test] = TABLE_SPLITS.index("test")
    codes[others[::5]] = TABLE_SPLITS.index("validation")
    return codes


def features(prompts: list[str], train: np.ndarray) -> np.ndarray:
    """Return float32 [n, D] from the text of the prompts alone.

    Args:
        prompts: of all rows.
        train: rows that vocabulary, weights and directions are fitted on, bool [n].
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    counted = words.fit_transform([prompt for prompt, fits in zip(prompts, train, strict=True) if fits])
    components = min(COMPONENTS, min(counted.shape) - 1)
    directions = TruncatedSVD(components, random_state=0).fit(counted)
    reduced = directions.transform(words.transform(prompts))  # [n, components]
    return np.concatenate([reduced, np.array([statistics(prompt) for prompt in prompts])], axis=1).astype(np.float32)


def statistics(prompt: str) -> list[float]:
    """Return counts of one prompt: its size, its numbers, and every one of PATTERNS."""
    text = prompt.lower()
    numbers = [float(found.replace(",", "").rstrip(".")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]
    return [
        float(np.log(len(text) + 1)),
        float(len(text.split())),
        float(len(re.findall(r"[.?!](?:\s|$)", text))),
        float(np.log1p(max(numbers, default=0.0))),
        float(len(set(numbers))),
        *(float(len(re.findall(pattern, text))) for pattern in PATTERNS.values()),
    ]


def latency_ms(texts: list[tuple[str, str]]) -> np.ndarray:
    """Return the nominal latency of every response, float32 [n, 2]."""
    tokens = np.array([[len(text) for text in pair] for pair in texts]) / CHARACTERS_PER_TOKEN
    return (tokens * [WEAK_MS_PER_TOKEN, STRONG_MS_PER_TOKEN]).astype(np.float32)


def make_table(responses: Responses, out: Path, split: np.ndarray, provenance: dict[str, object]) -> None:
    """Write the table.

    Args:
        responses: all rows.
        out: folder of the table.
        split: of every row, see `split_codes`.
        provenance: where the rows come from.

    Raises:
        TableError: the folder holds another table.
    """
    question = features(responses.prompts, split == TABLE_SPLITS.index("train"))
    header = Header(("skip", "use"), {"question": question.shape[1]}, provenance=provenance)
    writer = TableWriter(out, header)
    if writer.finished:
        return
    tensors = {
        "question": question,
        "score": responses.correct.astype(np.float32),
        "latency_ms": latency_ms(responses.texts),
        "retention_set": np.full(len(responses), -1, dtype=np.int16),  # no question is known to need the weak model
        "group": np.arange(len(responses), dtype=np.int64),
        "split": split,
    }
    records = [
        {"id": f"gsm8k-{i}", "question": prompt, "answers": [], "type": "", "predictions": list(pair)}
        for i, (prompt, pair) in enumerate(zip(responses.prompts, responses.texts, strict=True))
    ]
    writer.write_part(tensors, records, len(responses))
    writer.finish()


def main(argv: list[str] | None = None) -> int:
    """Write the table of one fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=Path, required=True, help="two_arm_responses.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--folds", type=int, default=5, help="parts that the rows are dealt into")
    parser.add_argument("--fold", type=int, default=0, help="the part that becomes the test split")
    options = parser.parse_args(argv)
    try:
        responses = read_responses(options.responses)
        split = split_codes(len(responses), options.folds, options.fold)
        source = {"responses_sha256": sha256_file(options.responses), "models": list(responses.models)}
        make_table(responses, options.out, split, {**source, "folds": options.folds, "fold": options.fold})
    except (SafeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sizes = np.bincount(split, minlength=len(TABLE_SPLITS))
    told = ", ".join(f"{name} {size}" for name, size in zip(TABLE_SPLITS, sizes, strict=True) if size)
    print(
        f"{options.out}: {len(responses)} questions ({told}), skip: {responses.models[0]}, use: {responses.models[1]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
