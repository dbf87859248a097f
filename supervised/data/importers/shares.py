"""Which of our splits a group of questions belongs to: drawn from its name, whole, and the same in every import.

The draw depends on the group's name and the seed only. Two datasets that share pictures (VQAv2 and COCO captions) or
videos therefore put a picture that both train on into the same one of our splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

Shares = Mapping[str, Mapping[str, float]]
"""Own split -> our split -> share of its groups. Own splits stand in the order of precedence: where a group has
questions in several of them, it stays in the first."""

THREE: Shares = {
    "test": {"test": 1.0},
    "val": {"validation": 0.5, "calibration": 0.5},
    "train": {"adapter": 0.6, "train": 0.4},
}
"""For datasets with a validation and a test split."""
TWO: Shares = {
    "val": {"test": 1.0},
    "train": {"adapter": 0.5, "train": 0.3, "validation": 0.1, "calibration": 0.1},
}
"""For datasets whose test answers are not published: figures are those of the validation split."""
ANEW: Mapping[str, float] = {"adapter": 0.4, "train": 0.2, "validation": 0.1, "calibration": 0.1, "test": 0.2}
"""For all questions together, whatever the dataset's own splits."""


def draw(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the name and the seed.

    >>> draw("coco-9", 0) == draw("coco-9", 0) != draw("coco-9", 1)
    True
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def our_split(group: str, shares: Mapping[str, float], seed: int) -> str:
    """Return the split that a group falls into when the splits have these shares."""
    place = draw(group, seed) * sum(shares.values())
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name  # rounding left nothing over


def first_split(splits: set[str], shares: Shares) -> str:
    """Return the own split that keeps a group with questions in all of `splits`."""
    return next(split for split in shares if split in splits)
