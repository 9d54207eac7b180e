"""Edits that move pixels: crops, flips, rotations, warps, borders. Each computes a `Move`."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from iscutils.edits.moves import BLACK, Move, to_canvas
from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real, Whole
from iscutils.edits.record import (
    Step,
    corners,
    homography_between,
    safe_scale,
    scaling,
    shift,
    transform,
)
from iscutils.edits.registry import geometry, operation

Size = tuple[int, int]  # (width, height), px
BORDER = Real(0.0, 0.5, 0.0, 1.0)  # share of the side of the picture
SIDE = Whole(224, 512, 1, 4096)  # px


@geometry(
    area=Real(0.25, 0.8, 0.01, 1.0),
    ratio=Real(0.7, 1.4, 0.25, 4.0, log=True),
    x=POSITION,
    y=POSITION,
)
def crop(size: Size, area: float, ratio: float, x: float, y: float) -> Move:
    """Keep a rectangle: its share of the area, and its proportions against the picture's."""
    width = min(size[0], max(1, round(size[0] * math.sqrt(area * ratio))))
    height = min(size[1], max(1, round(size[1] * math.sqrt(area / ratio))))
    return _cut(size, (width, height), x, y)


@geometry(
    side=SIDE,
    area=Real(0.3, 1.0, 0.01, 1.0),
    ratio=Real(3 / 4, 4 / 3, 0.1, 10.0, log=True),
    x=POSITION,
    y=POSITION,
)
def resized_crop(size: Size, side: int, area: float, ratio: float, x: float, y: float) -> Move:
    """Crop a share of the area with a width : height ratio and squash it to a square."""
    # A crop that does not fit gets the nearest ratio that does (torchvision draws anew instead).
    pixels = area * size[0] * size[1]
    width = min(size[0], math.sqrt(pixels * ratio))
    height = min(size[1], pixels / width)
    width = min(size[0], pixels / height)
    cut = _cut(size, (max(1, round(width)), max(1, round(height))), x, y)
    return Move(scaling(cut.size, (side, side)) @ cut.matrix, (side, side))


@geometry(width=Real(0.5, 1.0, 0.02, 1.0), height=Real(0.5, 1.0, 0.02, 1.0))
def centre_crop(size: Size, width: float, height: float) -> Move:
    """Keep the middle: shares of the width and of the height."""
    return _cut(size, _scaled(size, width, height), 0.5, 0.5)


@geometry(share=Real(0.5, 1.0, 0.1, 1.0))
def change_orientation(size: Size, share: float) -> Move:
    """Cut the middle of a landscape picture to portrait, or the other way round."""
    short = min(size)
    new = (short, max(1, round(short * share)))
    return _cut(size, new if size[0] < size[1] else new[::-1], 0.5, 0.5)


@geometry()
def hflip(size: Size) -> Move:
    """Mirror left and right."""
    return Move(np.array([[-1.0, 0, size[0]], [0, 1, 0], [0, 0, 1]]), size)


@geometry()
def vflip(size: Size) -> Move:
    """Mirror top and bottom."""
    return Move(np.array([[1.0, 0, 0], [0, -1, size[1]], [0, 0, 1]]), size)


@geometry(turns=Whole(1, 3, 1, 3))
def rot90(size: Size, turns: int) -> Move:
    """Turn by quarter turns, counter-clockwise, the canvas with it."""
    width, height = size
    matrices = (
        [[0.0, 1, 0], [-1, 0, width], [0, 0, 1]],
        [[-1.0, 0, width], [0, -1, height], [0, 0, 1]],
        [[0.0, -1, height], [1, 0, 0], [0, 0, 1]],
    )
    return Move(np.array(matrices[turns - 1]), size if turns == 2 else (height, width))


@geometry(
    degrees=Real(-45.0, 45.0, -360.0, 360.0),
    canvas=Choice(("expand", "keep", "inner")),
    fill=Colour(),
)
def rotate(size: Size, degrees: float, canvas: str, fill: tuple) -> Move:
    """Turn by any angle; the canvas grows, stays, or is cut to the part without empty corners."""
    width, height = size
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if canvas == "expand":
        new = (abs(width * cosine) + abs(height * sine), abs(width * sine) + abs(height * cosine))
    elif canvas == "inner":
        new = _inner_size(width, height, abs(cosine), abs(sine))
    else:
        new = size
    scale = safe_scale(new)
    return _turned(size, _scaled(new, scale, scale), cosine, sine, scale, fill)


def _turned(size: Size, new: Size, cosine: float, sine: float, scale: float, fill: tuple) -> Move:
    """Turn and scale about the middle, which stays the middle."""
    turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1.0]])
    turn[:2, :2] *= scale
    matrix = shift(new[0] / 2, new[1] / 2) @ turn @ shift(-size[0] / 2, -size[1] / 2)
    return Move(matrix, new, tuple(fill))


def _inner_size(width: int, height: int, cosine: float, sine: float) -> tuple[float, float]:
    """Sides of the largest upright rectangle inside a turned one (absolute cosine and sine).

    Either all four corners touch (the 2 x 2 system w' c + h' s = w, w' s + h' c = h), or the
    rectangle is so long that only two can, on the long sides: then its short side's half rules.
    """
    short, long = sorted((width, height))
    if short <= 2 * sine * cosine * long or abs(cosine - sine) < 1e-9:
        along, across = 0.5 * short / max(sine, 1e-9), 0.5 * short / max(cosine, 1e-9)
        return (along, across) if width >= height else (across, along)
    determinant = cosine**2 - sine**2
    return (
        (width * cosine - height * sine) / determinant,
        (height * cosine - width * sine) / determinant,
    )


@geometry(
    degrees=Real(-40.0, 40.0, -360.0, 360.0),
    scale=Real(0.5, 0.9, 0.1, 3.0),
    x=Real(-0.2, 0.2, -1.0, 1.0),
    y=Real(-0.2, 0.2, -1.0, 1.0),
    fill=Colour(),
)
def affine(size: Size, degrees: float, scale: float, x: float, y: float, fill: tuple) -> Move:
    """Turn, scale and move by shares of the sides on a canvas that stays as it is."""
    angle = math.radians(degrees)
    turned = _turned(size, size, math.cos(angle), math.sin(angle), scale, fill)
    return turned._replace(matrix=shift(x * size[0], y * size[1]) @ turned.matrix)


@geometry(factor=Real(0.5, 2.0, 0.1, 10.0, log=True))
def aspect(size: Size, factor: float) -> Move:
    """Stretch: width / height changes by the factor, the area stays."""
    stretch = math.sqrt(factor)
    return _resized(size, _scaled(size, stretch, 1 / stretch))


@geometry(strength=Real(0.05, 0.2, 0.0, 0.25), seed=SEED, fill=Colour())
def perspective(size: Size, strength: float, seed: int, fill: tuple) -> Move:
    """Move the four corners apart, mostly inwards, as when a print is seen at an angle."""
    # Up to 0.25 of a side inwards and 0.4 of that outwards, the outline stays convex.
    moves = np.random.default_rng(seed).uniform(-0.4 * strength, strength, (4, 2))
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    source = corners(size)
    return Move(homography_between(source, source + moves * inwards * size), size, tuple(fill))


@geometry(x=Real(-0.4, 0.4, -1.0, 1.0), y=Real(-0.2, 0.2, -0.7, 0.7), fill=Colour())
def shear(size: Size, x: float, y: float, fill: tuple) -> Move:
    """Slant the picture sideways and upwards on a canvas that grows with it."""
    matrix = np.array([[1.0, x, 0], [y, 1, 0], [0, 0, 1]])
    outline = transform(matrix, corners(size))
    extent = outline.max(0) - outline.min(0)
    scale = safe_scale(tuple(extent))
    matrix = np.diag([scale, scale, 1.0]) @ shift(*-outline.min(0)) @ matrix
    return Move(matrix, _scaled(tuple(extent), scale, scale), tuple(fill))


@geometry(factor=Real(-0.6, 0.6, -2.0, 2.0), axis=Choice(("horizontal", "vertical")), fill=Colour())
def skew(size: Size, factor: float, axis: str, fill: tuple) -> Move:
    """Slant the picture about its middle along one axis; what leaves the canvas is cut."""
    slant = [[1.0, factor, 0], [0, 1, 0], [0, 0, 1]]
    if axis == "vertical":
        slant = [[1.0, 0, 0], [factor, 1, 0], [0, 0, 1]]
    middle = size[0] / 2, size[1] / 2
    matrix = shift(*middle) @ np.array(slant) @ shift(-middle[0], -middle[1])
    return Move(matrix, size, tuple(fill))


@geometry(left=BORDER, right=BORDER, top=BORDER, bottom=BORDER, fill=Colour())
def pad(size: Size, left: float, right: float, top: float, bottom: float, fill: tuple) -> Move:
    """Add a plain border, each side its own share of the picture's width or height."""
    x, y = round(left * size[0]), round(top * size[1])
    new = (size[0] + x + round(right * size[0]), size[1] + y + round(bottom * size[1]))
    return to_canvas((x, y), new, fill)


@geometry(fill=Colour())
def pad_square(size: Size, fill: tuple) -> Move:
    """Add a border above and below, or left and right, that makes the picture square."""
    # Extreme strips are shrunk first: their square would not fit into memory.
    scale = safe_scale((max(size), max(size)))
    inner = _scaled(size, scale, scale) if scale < 1 else size
    side = max(inner)
    outer = to_canvas(((side - inner[0]) // 2, (side - inner[1]) // 2), (side, side), fill)
    return outer._replace(matrix=outer.matrix @ scaling(size, inner))


@geometry(side=SIDE)
def squash(size: Size, side: int) -> Move:
    """Resize to a square of so many pixels, the proportions get lost."""
    return _resized(size, (side, side))


@geometry(side=Whole(256, 1024, 16, 24_000))
def fit(size: Size, side: int) -> Move:
    """Shrink, if larger, so that the long side has at most so many pixels."""
    scale = min(1.0, side / max(size))
    return _resized(size, _scaled(size, scale, scale)) if scale < 1 else Move(np.eye(3), size)


@geometry(scale=Real(0.3, 0.8, 0.02, 3.0))
def resize(size: Size, scale: float) -> Move:
    """Change the number of pixels: both sides times the scale."""
    return _resized(size, _scaled(size, scale, scale))


@operation(
    "geometric", x=Real(-0.05, 0.05, -0.25, 0.25), y=Real(-0.03, 0.03, -0.25, 0.25)
)  # fmt: skip
def channel_shift(image: Image.Image, x: float, y: float) -> Step:
    """Move red one way and blue the other, by shares of the sides, and cut the uneven margin."""
    right, down = round(x * image.width), round(y * image.height)
    across, along = min(abs(right), (image.width - 1) // 2), min(abs(down), (image.height - 1) // 2)
    right, down = int(math.copysign(across, right)), int(math.copysign(along, down))
    width, height = image.width - 2 * across, image.height - 2 * along
    bands = [
        band.crop((left, top, left + width, top + height))
        for band, left, top in zip(
            image.split(),
            (across - right, across, across + right),
            (along - down, along, along + down),
            strict=True,
        )
    ]
    return Step(Image.merge("RGB", bands), shift(-across, -along))


def _cut(size: Size, new: Size, x: float, y: float) -> Move:
    """Keep `new` px at a position given as shares of the free space."""
    return Move(shift(-round(x * (size[0] - new[0])), -round(y * (size[1] - new[1]))), new, BLACK)


def _scaled(size: tuple[float, float], x: float, y: float) -> Size:
    return max(1, round(size[0] * x)), max(1, round(size[1] * y))


def _resized(size: Size, new: Size) -> Move:
    return Move(scaling(size, new), new)
