"""Where the pixels of a training view come from: all moves and layers of a picture as matrices.

Nothing is drawn here. Every geometric operation is the registry's own move; whatever is put on,
beside or around the picture becomes a layer whose place is known in coordinates of the picture. So
later crops and turns take earlier stickers with them, as they do when edits run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SQUARE = (1e-6, 1e-6)
Donor = Callable[[int], int]


class Layer(NamedTuple):
    """Something laid over a picture.

    kind: plain, noise, photo, emoji, word, stripes or mask. region: (3, 3), px of the source ->
    [-1, 1] squared, the layer's own area. inside, outside: opacity in the area and around it.
    texture: (3, 3), px of the source -> [-1, 1] squared of the shown picture; None: the region's.
    index: which donor, emoji or word. colour: 0..1. radii: of the area's rounded corners, 1 for an
    ellipse. soft: width of a soft rim, share of the area's half side. extra: width of the stripes
    in periods, or a mask (64, 64).
    """

    kind: str
    region: np.ndarray
    inside: float = 1.0
    outside: float = 0.0
    texture: np.ndarray | None = None
    index: int = 0
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radii: tuple[float, float] = SQUARE
    soft: float = 0.0
    extra: Any = None


class Picture:
    """One picture on its way through geometric edits.

    source: (width, height) px of it and of all donors. donor: number of a donor -> its image.
    size: (width, height) px of the canvas now. matrix: (3, 3) px of the source -> px now. coarse:
    matrices of the steps that left a lower resolution.
    """

    def __init__(self, source: tuple[int, int], donor: Donor):
        self.source = self.size = source
        self.matrix, self.donor = np.eye(3), donor
        self.layers: list[Layer] = []
        self.coarse: list[np.ndarray] = []

    def area(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        """Matrix from px of the source to [-1, 1] squared over a rectangle of the canvas."""
        return unit(x, y, width, height) @ self.matrix

    def move(self, matrix: np.ndarray, size: tuple[int, int]) -> None:
        """Go on with another canvas."""
        self.matrix, self.size = matrix @ self.matrix, size

    def extend(self, matrix: np.ndarray, size: tuple[int, int], fill: tuple) -> None:
        """Go on with another canvas that is plain where it shows nothing of this one."""
        former = self.area(0, 0, *self.size)
        self.move(matrix, size)
        self.layers.append(Layer("plain", former, 0.0, 1.0, colour=unit_colour(fill)))


def unit(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Matrix (3, 3) from px to [-1, 1] squared over a rectangle."""
    return np.array([[2 / width, 0, -2 * x / width - 1], [0, 2 / height, -2 * y / height - 1],
                     [0, 0, 1]])  # fmt: skip


def unit_colour(colour: tuple) -> tuple[float, float, float]:
    return tuple(value / 255 for value in colour)


def corner_of(size: tuple, canvas: tuple, values: Mapping) -> tuple[float, float]:
    """Top left corner px of a thing on a canvas, from the values x and y (and units)."""
    if values.get("units") == "canvas":
        return int(values["x"] * canvas[0]), int(values["y"] * canvas[1])
    return tuple(
        round(v * (c - s)) for v, c, s in zip((values["x"], values["y"]), canvas, size, strict=True)
    )
