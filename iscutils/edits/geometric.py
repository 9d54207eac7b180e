"""Edits that move pixels: crops, flips, rotations, warps, borders, resolution."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real, Whole
from iscutils.edits.record import (
    Step,
    corners,
    homography_between,
    safe_scale,
    scaling,
    shift,
    transform,
    warp,
)
from iscutils.edits.registry import operation

BILINEAR = Image.Resampling.BILINEAR
BORDER = Real(0.0, 0.5, 0.0, 1.0)  # share of the side of the picture


@operation(
    "geometric",
    area=Real(0.25, 0.8, 0.01, 1.0),
    ratio=Real(0.7, 1.4, 0.25, 4.0, log=True),
    x=POSITION,
    y=POSITION,
)
def crop(image: Image.Image, area: float, ratio: float, x: float, y: float) -> Step:
    """Keep a rectangle: its share of the area, and its proportions against the picture's."""
    width = min(image.width, max(1, round(image.width * math.sqrt(area * ratio))))
    height = min(image.height, max(1, round(image.height * math.sqrt(area / ratio))))
    left, top = round(x * (image.width - width)), round(y * (image.height - height))
    return Step(image.crop((left, top, left + width, top + height)), shift(-left, -top))


@operation("geometric")
def hflip(image: Image.Image) -> Step:
    """Mirror left and right."""
    matrix = np.array([[-1.0, 0, image.width], [0, 1, 0], [0, 0, 1]])
    return Step(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), matrix)


@operation("geometric")
def vflip(image: Image.Image) -> Step:
    """Mirror top and bottom."""
    matrix = np.array([[1.0, 0, 0], [0, -1, image.height], [0, 0, 1]])
    return Step(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), matrix)


@operation("geometric", turns=Whole(1, 3, 1, 3))
def rot90(image: Image.Image, turns: int) -> Step:
    """Turn by quarter turns, counter-clockwise, the canvas with it."""
    width, height = image.size
    transposes = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    matrices = (
        [[0.0, 1, 0], [-1, 0, width], [0, 0, 1]],
        [[-1.0, 0, width], [0, -1, height], [0, 0, 1]],
        [[0.0, -1, height], [1, 0, 0], [0, 0, 1]],
    )
    return Step(image.transpose(transposes[turns - 1]), np.array(matrices[turns - 1]))


@operation(
    "geometric",
    degrees=Real(-45.0, 45.0, -180.0, 180.0),
    canvas=Choice(("expand", "keep", "inner")),
    fill=Colour(),
)
def rotate(image: Image.Image, degrees: float, canvas: str, fill: tuple) -> Step:
    """Turn by any angle; the canvas grows, stays, or is cut to the part without empty corners."""
    width, height = image.size
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1.0]])
    if canvas == "expand":
        new = (abs(width * cosine) + abs(height * sine), abs(width * sine) + abs(height * cosine))
    elif canvas == "inner":
        new = _inner_size(width, height, abs(cosine), abs(sine))
    else:
        new = (width, height)
    scale = safe_scale(new)
    size = (max(1, round(new[0] * scale)), max(1, round(new[1] * scale)))
    turn[:2, :2] *= scale
    matrix = shift(size[0] / 2, size[1] / 2) @ turn @ shift(-width / 2, -height / 2)
    return Step(warp(image, matrix, size, fill), matrix)


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


@operation("geometric", factor=Real(0.5, 2.0, 0.1, 10.0, log=True))
def aspect(image: Image.Image, factor: float) -> Step:
    """Stretch: width / height changes by the factor, the area stays."""
    stretch = math.sqrt(factor)
    return _resized(image, image.width * stretch, image.height / stretch)


@operation("geometric", strength=Real(0.05, 0.2, 0.0, 0.25), seed=SEED, fill=Colour())
def perspective(image: Image.Image, strength: float, seed: int, fill: tuple) -> Step:
    """Move the four corners apart, mostly inwards, as when a print is seen at an angle."""
    # Up to 0.25 of a side inwards and 0.4 of that outwards, the outline stays convex.
    moves = np.random.default_rng(seed).uniform(-0.4 * strength, strength, (4, 2))
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    source = corners(image.size)
    matrix = homography_between(source, source + moves * inwards * image.size)
    return Step(warp(image, matrix, image.size, fill), matrix)


@operation(
    "geometric",
    x=Real(-0.4, 0.4, -1.0, 1.0),
    y=Real(-0.2, 0.2, -0.7, 0.7),
    fill=Colour(),
)
def shear(image: Image.Image, x: float, y: float, fill: tuple) -> Step:
    """Slant the picture sideways and upwards on a canvas that grows with it."""
    matrix = np.array([[1.0, x, 0], [y, 1, 0], [0, 0, 1]])
    outline = transform(matrix, corners(image.size))
    extent = outline.max(0) - outline.min(0)
    scale = safe_scale(tuple(extent))
    matrix = np.diag([scale, scale, 1.0]) @ shift(*-outline.min(0)) @ matrix
    size = tuple(max(1, round(side * scale)) for side in extent)
    return Step(warp(image, matrix, size, fill), matrix)


@operation("geometric", left=BORDER, right=BORDER, top=BORDER, bottom=BORDER, fill=Colour())
def pad(
    image: Image.Image, left: float, right: float, top: float, bottom: float, fill: tuple
) -> Step:
    """Add a plain border, each side its own share of the picture's width or height."""
    x, y = round(left * image.width), round(top * image.height)
    size = (
        image.width + x + round(right * image.width),
        image.height + y + round(bottom * image.height),
    )
    return _on_canvas(image, size, (x, y), fill)


@operation("geometric", fill=Colour())
def pad_square(image: Image.Image, fill: tuple) -> Step:
    """Add a border above and below, or left and right, that makes the picture square."""
    # Extreme strips are shrunk first: their square would not fit into memory.
    side = max(image.size)
    scale = safe_scale((side, side))
    inner = _resized(image, image.width * scale, image.height * scale) if scale < 1 else Step(image)
    side = max(inner.image.size)
    offset = ((side - inner.image.width) // 2, (side - inner.image.height) // 2)
    outer = _on_canvas(inner.image, (side, side), offset, fill)
    return Step(outer.image, outer.matrix @ inner.matrix)


@operation("geometric", scale=Real(0.2, 0.7, 0.02, 1.0), restore=Choice((False, True)))
def resize(image: Image.Image, scale: float, restore: bool) -> Step:
    """Lose resolution: shrink by the scale, and perhaps enlarge back."""
    small = _resized(image, image.width * scale, image.height * scale)
    return Step(small.image.resize(image.size, BILINEAR)) if restore else small


@operation("geometric", side=Whole(256, 1024, 16, 24_000))
def fit(image: Image.Image, side: int) -> Step:
    """Shrink, if larger, so that the long side has at most so many pixels."""
    scale = min(1.0, side / max(image.size))
    return _resized(image, image.width * scale, image.height * scale) if scale < 1 else Step(image)


def _resized(image: Image.Image, width: float, height: float) -> Step:
    size = (max(1, round(width)), max(1, round(height)))
    # reducing_gap: strong reductions go in two steps, several times faster, hardly different
    return Step(image.resize(size, BILINEAR, reducing_gap=3.0), scaling(image.size, size))


def _on_canvas(
    image: Image.Image, size: tuple[int, int], offset: tuple[int, int], fill: tuple
) -> Step:
    canvas = Image.new("RGB", size, tuple(fill))
    canvas.paste(image, offset)
    return Step(canvas, shift(*offset))
