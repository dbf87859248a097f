"""Scenes of SoundScenes as plain values: what stands in the picture, what sounds, how loud the noise is.

`draw_scene` samples a scene; `source_posterior` enumerates every set of sources that a picture leaves possible with
its probability, so that the best guess about the sound from the picture alone can be computed instead of estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

CLASSES = ("dog", "rain", "waves", "baby", "clock", "sneeze", "helicopter", "chainsaw", "rooster", "fire")
"""The classes of ESC-10, in the order of its folders."""
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
POSITIONS = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
GRID = 3
RETENTION_SET = "scenes-vl"

SOURCE_COUNT_P = (0.15, 0.6, 0.25)
"""Probability of zero, one and two sounding sources."""
ON_SCREEN_P = 0.65
"""Probability that a source is an object of the picture, while one is left."""
OBJECT_COUNT_P = (0.3, 0.35, 0.35)
"""Probability of one, two and three objects."""
DROWNED_P = 0.15
"""Share of scenes whose noise leaves nothing of their sound to be heard."""


@dataclass(frozen=True)
class SceneObject:
    """One glyph of the picture."""

    kind: str
    color: str
    cell: int
    """0 to 8, row by row."""
    jitter: tuple[float, float]
    """Offset in x and y as a share of the free room in the cell, in [-1, 1]."""

    @property
    def position(self) -> str:
        """The cell's name, such as "top left"."""
        return POSITIONS[self.cell // GRID][self.cell % GRID]


@dataclass(frozen=True)
class Scene:
    """A picture and a sound, as facts; `seed` fixes every pixel and every sample of both."""

    objects: tuple[SceneObject, ...]
    sources: frozenset[str]
    """Classes that sound; on screen or not."""
    seconds: float
    snr_db: float
    """Sound over background noise; below zero the clip is drowned."""
    seed: int

    @property
    def on_screen(self) -> tuple[str, ...]:
        """Classes in the picture."""
        return tuple(thing.kind for thing in self.objects)


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: 1 to 3 objects of distinct classes, 0 to 2 sources, 1.5 to 5 seconds, noise."""
    count = 1 + int(rng.choice(3, p=OBJECT_COUNT_P))
    kinds = rng.permutation(len(CLASSES))[:count]
    cells = rng.permutation(GRID * GRID)[:count]
    objects = tuple(
        SceneObject(
            kind=CLASSES[kind],
            color=COLORS[int(rng.integers(len(COLORS)))],
            cell=int(cell),
            jitter=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
        )
        for kind, cell in zip(kinds, cells, strict=True)
    )
    sources: list[str] = []
    for _ in range(int(rng.choice(3, p=SOURCE_COUNT_P))):
        sources.append(_draw_source(rng, [thing.kind for thing in objects], sources))
    drowned = rng.random() < DROWNED_P
    return Scene(
        objects=objects,
        sources=frozenset(sources),
        seconds=float(rng.uniform(1.5, 5.0)),
        snr_db=float(rng.uniform(-36, -28) if drowned else rng.uniform(10, 30)),
        seed=int(rng.integers(2**31)),
    )


def _draw_source(rng: np.random.Generator, visible: list[str], taken: list[str]) -> str:
    shown, hidden = _candidates(visible, taken)
    pool = shown if shown and rng.random() < ON_SCREEN_P else hidden
    return pool[int(rng.integers(len(pool)))]


def _candidates(visible: list[str], taken: list[str]) -> tuple[list[str], list[str]]:
    shown = [kind for kind in visible if kind not in taken]
    hidden = [kind for kind in CLASSES if kind not in visible and kind not in taken]
    return shown, hidden


def _source_p(kind: str, visible: list[str], taken: list[str]) -> float:
    shown, hidden = _candidates(visible, taken)
    if kind in shown:
        return ON_SCREEN_P / len(shown)
    return (1 - ON_SCREEN_P if shown else 1.0) / len(hidden)


@cache
def source_posterior(on_screen: tuple[str, ...]) -> tuple[tuple[frozenset[str], float], ...]:
    """Return every possible set of sources with its probability given the classes in the picture; they sum to 1."""
    visible = list(on_screen)
    p: dict[frozenset[str], float] = {frozenset(): SOURCE_COUNT_P[0]}
    for first in CLASSES:
        p[frozenset((first,))] = SOURCE_COUNT_P[1] * _source_p(first, visible, [])
    for first, second in permutations(CLASSES, 2):
        pair = frozenset((first, second))
        step = _source_p(first, visible, []) * _source_p(second, visible, [first])
        p[pair] = p.get(pair, 0.0) + SOURCE_COUNT_P[2] * step
    return tuple(p.items())
