"""A scene as a picture: one glyph per object on a 3 x 3 grid, drawn at any size, with sensor noise."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from supervised.demo.world import GRID, Scene

SIZE = 48
"""Side in pixels of the picture that the demo's base reads."""
GLYPH_SHARE = 0.75
"""Side of a glyph as a share of its cell."""
NOISE = 6.0
"""Standard deviation of the sensor noise, in units of 0 to 255."""
RGB = {
    "red": (220, 50, 40),
    "green": (60, 190, 70),
    "blue": (60, 90, 230),
    "yellow": (235, 215, 60),
    "purple": (165, 70, 200),
    "white": (235, 235, 235),
}
_SUPERSAMPLING = 8


def render_picture(scene: Scene, size: int = SIZE) -> Image.Image:
    """Return the scene as an RGB picture of `size` x `size` pixels; the same scene gives the same pixels."""
    rng = np.random.default_rng([scene.seed, 1])
    cell, glyph = size // GRID, round(size // GRID * GLYPH_SHARE)
    canvas = np.full((size, size, 3), rng.uniform(15, 45), dtype=np.float32)
    for thing in scene.objects:
        mask = _glyph(thing.kind, glyph)[..., None]  # (glyph, glyph, 1)
        room = (cell - glyph) / 2
        top = round(thing.cell // GRID * cell + room * (1 + thing.jitter[1]))
        left = round(thing.cell % GRID * cell + room * (1 + thing.jitter[0]))
        patch = canvas[top : top + glyph, left : left + glyph]
        patch += mask * (np.asarray(RGB[thing.color], dtype=np.float32) * rng.uniform(0.85, 1.0) - patch)
    canvas += rng.normal(0, NOISE, canvas.shape).astype(np.float32)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


@cache
def _glyph(kind: str, size: int) -> np.ndarray:
    """Return the shape of a class as a mask in [0, 1], float32 [size, size]."""
    side = size * _SUPERSAMPLING
    image = Image.new("L", (side, side))
    _draw(kind, ImageDraw.Draw(image), side)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255


def _draw(kind: str, pen: ImageDraw.ImageDraw, side: int) -> None:  # noqa: C901  one short branch per class
    def at(*points: float) -> list[float]:
        return [side * point for point in points]

    thick = max(1, round(side * 0.14))
    match kind:
        case "dog":  # a head with two hanging ears
            pen.ellipse(at(0.22, 0.25, 0.78, 0.95), fill=255)
            pen.polygon(at(0.0, 0.65, 0.08, 0.1, 0.38, 0.3), fill=255)
            pen.polygon(at(1.0, 0.65, 0.92, 0.1, 0.62, 0.3), fill=255)
        case "rain":  # three slanted streaks
            for x in (0.1, 0.45, 0.8):
                pen.line(at(x + 0.12, 0.0, x - 0.05, 1.0), fill=255, width=thick)
        case "waves":  # two rows of crests
            for y in (0.3, 0.75):
                points = [(x / 24, y + 0.17 * np.sin(x / 24 * 4 * np.pi)) for x in range(25)]
                pen.line([(px * side, py * side) for px, py in points], fill=255, width=thick)
        case "baby":  # a round face with a wide-open mouth
            pen.ellipse(at(0.02, 0.02, 0.98, 0.98), fill=255)
            pen.ellipse(at(0.3, 0.45, 0.7, 0.88), fill=0)
        case "clock":  # a ring with two hands
            pen.ellipse(at(0.0, 0.0, 1.0, 1.0), outline=255, width=thick)
            pen.line(at(0.5, 0.5, 0.5, 0.1), fill=255, width=thick)
            pen.line(at(0.5, 0.5, 0.8, 0.5), fill=255, width=thick)
        case "sneeze":  # a burst from the left
            for y in (0.0, 0.25, 0.5, 0.75, 1.0):
                pen.line(at(0.0, 0.5, 1.0, y), fill=255, width=thick * 2 // 3)
        case "helicopter":  # a rotor over a cabin with a tail
            pen.line(at(0.0, 0.1, 1.0, 0.1), fill=255, width=thick)
            pen.line(at(0.4, 0.1, 0.4, 0.5), fill=255, width=thick // 2)
            pen.ellipse(at(0.1, 0.4, 0.7, 0.95), fill=255)
            pen.line(at(0.6, 0.6, 1.0, 0.6), fill=255, width=thick)
        case "chainsaw":  # a motor with a long bar
            pen.rectangle(at(0.0, 0.3, 0.4, 0.9), fill=255)
            pen.rectangle(at(0.4, 0.5, 1.0, 0.7), fill=255)
        case "rooster":  # a comb of three points over a beak
            pen.polygon(at(0.1, 0.55, 0.15, 0.0, 0.35, 0.3, 0.5, 0.0, 0.65, 0.3, 0.85, 0.0, 0.9, 0.55), fill=255)
            pen.polygon(at(0.25, 0.55, 0.75, 0.55, 0.5, 1.0), fill=255)
        case "fire":  # a flame
            pen.polygon(at(0.5, 0.0, 0.95, 0.65, 0.75, 1.0, 0.25, 1.0, 0.05, 0.65), fill=255)
            pen.polygon(at(0.5, 0.55, 0.65, 1.0, 0.35, 1.0), fill=0)
        case _:
            raise ValueError(f"no glyph for class {kind!r}")
