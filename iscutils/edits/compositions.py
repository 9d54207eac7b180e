"""Edits with other photographs (donors): pasted on one, under one, blended, in a collage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.layers import (
    BILINEAR,
    SHAPES,
    UNITS,
    Layer,
    corner_of,
    filled,
    fitted,
    own_box,
    resized_part,
    shape_mask,
    smooth_field,
)
from iscutils.edits.moves import resize_window
from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real, Whole
from iscutils.edits.record import Box, Step, rectangle, scaling, shift
from iscutils.edits.registry import operation

DONOR_SIDE = 1024  # px; larger donors are shrunk before something is pasted on them
MIRROR, TURNS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270),
)
Donors = Sequence[Image.Image]


@operation(
    "composition",
    donors=1,
    size=Real(0.35, 0.8, 0.05, 1.0),
    x=POSITION,
    y=POSITION,
    units=UNITS,
    opacity=Real(0.75, 1.0, 0.0, 1.0),
)
def paste(
    image: Image.Image,
    donors: Donors,
    size: float,
    x: float,
    y: float,
    units: str,
    opacity: float,
) -> Step:
    """Paste the picture on another photograph; size 1 fills it in one direction.

    In canvas units (AugLy) the size is a share of the canvas's height.
    """
    canvas = donors[0].convert("RGB").copy()
    if max(canvas.size) > DONOR_SIDE:
        canvas.thumbnail((DONOR_SIDE, DONOR_SIDE), BILINEAR)
    new = fitted(image.size, canvas.size, size, units)
    corner = corner_of(new, canvas.size, x, y, units)
    alpha = round(255 * opacity)
    part, at = resized_part(image, new, corner, canvas.size)
    if part is not None:
        canvas.paste(part, at, Image.new("L", part.size, alpha))
    matrix = shift(*corner) @ scaling(image.size, new)
    boxes = (own_box(matrix, image.size),) if alpha and part is not None else ()
    return Step(canvas, matrix, 1 - alpha / 255, boxes)


@operation(
    "composition",
    donors=1,
    size=Real(0.25, 0.6, 0.05, 1.0),
    x=POSITION,
    y=POSITION,
    units=UNITS,
    opacity=Real(0.85, 1.0, 0.0, 1.0),
    shape=Choice(SHAPES),
    feather=Real(0.0, 0.0, 0.0, 0.5),
)
def underlay(
    image: Image.Image,
    donors: Donors,
    size: float,
    x: float,
    y: float,
    units: str,
    opacity: float,
    shape: str,
    feather: float,
) -> Step:
    """Cover part of the picture with another photograph; size 1 fills it in one direction.

    In canvas units (AugLy) the size is a share of the picture's height. feather: width of the soft
    rim, share of the shorter side of what is pasted.
    """
    donor, layer = donors[0].convert("RGB"), Layer(image)
    new = fitted(donor.size, image.size, size, units)
    corner = corner_of(new, image.size, x, y, units)
    part, at = resized_part(donor, new, corner, image.size)
    if part is not None:
        left, top = at[0] - corner[0], at[1] - corner[1]
        window = (left, top, left + part.width, top + part.height)
        layer.add(part, shape_mask(new, shape, window, feather), at, opacity, "photo")
    return layer.step()


@operation(
    "composition",
    donors=1,
    scale=Real(0.3, 0.9, 0.05, 1.0),
    keep=Real(0.6, 1.0, 0.1, 1.0),
    flip=Choice((False, True)),
    aspect=Real(0.66, 1.5, 0.25, 4.0, log=True),
    turn=Real(-25.0, 25.0, -180.0, 180.0),
    quarter=Whole(0, 3, 0, 3),
    border=Real(0.0, 0.04, 0.0, 0.3),
    border_colour=Colour(),
    shape=Choice(SHAPES),
    shadow=Choice((False, True)),
    opacity=Real(0.5, 1.0, 0.0, 1.0),
    x=POSITION,
    y=POSITION,
)
def photo_overlay(
    image: Image.Image,
    donors: Donors,
    scale: float,
    keep: float,
    flip: bool,
    aspect: float,
    turn: float,
    quarter: int,
    border: float,
    border_colour: tuple,
    shape: str,
    shadow: bool,
    opacity: float,
    x: float,
    y: float,
) -> Step:
    """Put a part of another photograph on, turned and framed, as a thing of its own.

    scale: the larger of its width and height as shares of the picture's. keep: share of each side
    of the donor that is used. border: share of its long side. The shadow is no part of its box.
    """
    donor = donors[0].convert("RGB")
    sides = np.array(donor.size) * keep * (aspect**0.5, aspect**-0.5)
    sides = sides[::-1] if quarter % 2 else sides
    outer = sides + 2 * border * sides.max()
    cosine, sine = abs(math.cos(math.radians(turn))), abs(math.sin(math.radians(turn)))
    extent = outer @ np.array([[cosine, sine], [sine, cosine]])
    factor = scale * min(image.width / extent[0], image.height / extent[1])
    width, height = (max(1, round(float(side) * factor)) for side in sides)
    part = _middle(donor, keep, (height, width) if quarter % 2 else (width, height))
    part = part.transpose(MIRROR) if flip else part
    part = part.transpose(TURNS[quarter - 1]) if quarter else part
    edge = round(border * max(width, height))
    whole = Image.new("RGB", (width + 2 * edge, height + 2 * edge), tuple(border_colour))
    whole.paste(part, (edge, edge), shape_mask(part.size, shape))
    whole.putalpha(shape_mask(whole.size, shape))
    whole = whole.rotate(turn, BILINEAR, expand=True) if turn else whole
    layer, corner = Layer(image), corner_of(whole.size, image.size, x, y)
    if shadow:
        _add_shadow(layer, whole.getchannel("A"), corner, opacity)
    layer.add_picture(whole, whole.size, corner, opacity, "photo")
    return layer.step()


def _middle(donor: Image.Image, keep: float, size: tuple[int, int]) -> Image.Image:
    """The middle of a photograph, a share of each side of it, resized to (width, height) px."""
    x, y = (1 - keep) / 2 * donor.width, (1 - keep) / 2 * donor.height
    box = (x, y, donor.width - x, donor.height - y)
    return donor.resize(size, BILINEAR, box=box, reducing_gap=3.0)


def _add_shadow(layer: Layer, mask: Image.Image, corner: tuple, opacity: float) -> None:
    """A soft shadow below and to the right of a mask."""
    sigma = max(1.0, 0.02 * min(mask.size))
    room = math.ceil(3 * sigma)
    soft = cv2.copyMakeBorder(np.asarray(mask), *[room] * 4, cv2.BORDER_CONSTANT, value=0)
    soft = cv2.GaussianBlur(soft, (0, 0), sigma)
    away = round(1.5 * sigma) - room
    layer.add((0, 0, 0), Image.fromarray(soft), (corner[0] + away, corner[1] + away), 0.6 * opacity)


@operation(
    "composition",
    donors=3,
    count=Whole(2, 3, 1, 20),
    size=Real(0.25, 0.45, 0.05, 1.0),
    opacity=Real(0.8, 1.0, 0.0, 1.0),
    seed=SEED,
)
def photo_overlays(
    image: Image.Image, donors: Donors, count: int, size: float, opacity: float, seed: int
) -> Step:
    """Put several other photographs on, apart from each other where there is room."""
    rng, layer = np.random.default_rng(seed), Layer(image)
    for number in range(count):
        donor = donors[number % len(donors)].convert("RGB")
        new = fitted(donor.size, image.size, size * rng.uniform(0.75, 1.0))
        solid = Image.new("L", new, 255)
        places = [corner_of(new, image.size, *rng.uniform(0, 1, 2)) for _ in range(8)]
        corner = max(places, key=lambda place: layer.newly_hidden(solid, place))
        small = resize_window(donor, np.array([(0, 0), donor.size]), new)
        layer.add(small, solid, corner, opacity, "photo")
    return layer.step()


@operation(
    "composition",
    donors=2,
    own=Real(0.4, 0.75, 0.0, 1.0),
    second=Real(0.0, 0.0, 0.0, 0.5),
)
def opacity(image: Image.Image, donors: Donors, own: float, second: float) -> Step:
    """Blend with another photograph of the same size; `own` is the share of the picture itself.

    second: weight of one more photograph that is then blended in; the shares of the picture and of
    the first fall by the factor 1 - second.
    """
    blended = Image.blend(filled(donors[0], image.size), image, own)
    if second > 0:
        blended = Image.blend(blended, filled(donors[1 % len(donors)], image.size), second)
    return Step(blended, hidden=1 - own * (1 - second))


@operation(
    "composition",
    donors=1,
    cover=Real(0.2, 0.55, 0.05, 0.9),
    softness=Real(0.05, 0.2, 0.01, 0.5),
    seed=SEED,
)
def blurred_mask(
    image: Image.Image, donors: Donors, cover: float, softness: float, seed: int
) -> Step:
    """Let another photograph show through soft blobs that cover about that share."""
    # A smooth random field, thresholded at the quantile of the share, with a soft edge.
    field = smooth_field(np.random.default_rng(seed), 6)
    threshold = np.quantile(field, 1 - cover)
    soft = np.clip(0.5 + (field - threshold) / (6 * softness * field.std()), 0, 1)
    alpha = cv2.resize(soft, image.size, interpolation=cv2.INTER_LINEAR)  # (H, W)
    layer = Layer(image)
    layer.add(filled(donors[0], image.size), Image.fromarray(np.rint(alpha * 255).astype(np.uint8)))
    return layer.step()


@operation(
    "composition",
    donors=3,
    layout=Choice(("left", "right", "top", "bottom", "grid")),
    gap=Real(0.0, 0.05, 0.0, 0.3),
    fill=Colour(),
    seed=SEED,
)
def collage(
    image: Image.Image, donors: Donors, layout: str, gap: float, fill: tuple, seed: int
) -> Step:
    """Put the picture beside another photograph, or into a grid of four, whole."""
    width, height = image.size
    space = round(gap * min(image.size))
    if layout == "grid":
        size, slot = (2 * width + space, 2 * height + space), seed % 4
        tiles = [
            ((i % 2) * (width + space), (i // 2) * (height + space), width, height)
            for i in range(4)
        ]
    else:
        size, slot, tiles = _pair(layout, image.size, donors[0].size, space)
    canvas = Image.new("RGB", size, tuple(fill))
    others = [i for i in range(len(tiles)) if i != slot]
    for number, i in enumerate(others):
        x, y, *tile = tiles[i]
        canvas.paste(filled(donors[number % len(donors)], tuple(tile)), (x, y))
    canvas.paste(image, tiles[slot][:2])
    boxes = (
        Box("original" if i == slot else "photo", rectangle(x, y, x + width, y + height))
        for i, (x, y, width, height) in enumerate(tiles)
    )
    return Step(canvas, shift(*tiles[slot][:2]), boxes=tuple(boxes))


def _pair(layout: str, own: tuple, other: tuple, space: int) -> tuple[tuple, int, list]:
    """Canvas size, own slot and the two tiles (x, y, width, height) of a side-by-side collage."""
    axis = 0 if layout in ("left", "right") else 1
    length, across = own[axis], own[1 - axis]
    # The other photograph keeps its proportions between half and twice the picture's length.
    second = min(max(across * other[axis] / other[1 - axis], 0.5 * length), 2 * length)
    second = max(1, round(second))
    slot = 0 if layout in ("left", "top") else 1
    first, last = (length, second) if slot == 0 else (second, length)
    spans = [(0, first), (first + space, last)]
    if axis == 0:
        tiles = [(start, 0, span, across) for start, span in spans]
        return (first + space + last, across), slot, tiles
    tiles = [(0, start, across, span) for start, span in spans]
    return (across, first + space + last), slot, tiles
