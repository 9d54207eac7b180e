"""Edits with other photographs (donors): pasted on one, under one, blended, in a collage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real
from iscutils.edits.record import Step, scaling, shift
from iscutils.edits.registry import operation

BILINEAR = Image.Resampling.BILINEAR
DONOR_SIDE = 1024  # px; larger donors are shrunk before something is pasted on them
Donors = Sequence[Image.Image]


@operation(
    "composition",
    needs_donor=True,
    size=Real(0.35, 0.8, 0.05, 1.0),
    x=POSITION,
    y=POSITION,
    opacity=Real(0.75, 1.0, 0.1, 1.0),
)
def paste(
    image: Image.Image, donors: Donors, size: float, x: float, y: float, opacity: float
) -> Step:
    """Paste the picture on another photograph; size 1 fills it in one direction."""
    canvas = donors[0].convert("RGB").copy()
    canvas.thumbnail((DONOR_SIDE, DONOR_SIDE), BILINEAR)
    scale = size * min(canvas.width / image.width, canvas.height / image.height)
    new = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    corner = (round(x * (canvas.width - new[0])), round(y * (canvas.height - new[1])))
    small = image.resize(new, BILINEAR, reducing_gap=3.0)
    alpha = round(255 * opacity)
    canvas.paste(small, corner, Image.new("L", new, alpha))
    return Step(canvas, shift(*corner) @ scaling(image.size, new), 1 - alpha / 255)


@operation(
    "composition",
    needs_donor=True,
    size=Real(0.25, 0.6, 0.05, 1.0),
    x=POSITION,
    y=POSITION,
    opacity=Real(0.85, 1.0, 0.1, 1.0),
    shape=Choice(("rectangle", "rounded", "ellipse")),
)
def underlay(
    image: Image.Image,
    donors: Donors,
    size: float,
    x: float,
    y: float,
    opacity: float,
    shape: str,
) -> Step:
    """Cover part of the picture with another photograph; size 1 fills it in one direction."""
    donor = donors[0].convert("RGB")
    scale = size * min(image.width / donor.width, image.height / donor.height)
    new = (max(1, round(donor.width * scale)), max(1, round(donor.height * scale)))
    corner = (round(x * (image.width - new[0])), round(y * (image.height - new[1])))
    mask, value = Image.new("L", new), round(255 * opacity)
    pen, box = ImageDraw.Draw(mask), (0, 0, new[0] - 1, new[1] - 1)
    if shape == "ellipse":
        pen.ellipse(box, fill=value)
    else:
        pen.rounded_rectangle(box, 0 if shape == "rectangle" else 0.2 * min(new), fill=value)
    edited = image.copy()
    edited.paste(donor.resize(new, BILINEAR, reducing_gap=3.0), corner, mask)
    hidden = Image.new("L", image.size)
    hidden.paste(mask, corner)
    return Step(edited, hidden=np.asarray(hidden, np.float32) / 255)


@operation("composition", needs_donor=True, own=Real(0.4, 0.75, 0.05, 1.0))
def opacity(image: Image.Image, donors: Donors, own: float) -> Step:
    """Blend with another photograph of the same size; `own` is the share of the picture itself."""
    other = _cover(donors[0], image.size)
    return Step(Image.blend(other, image, own), hidden=1 - own)


@operation(
    "composition",
    needs_donor=True,
    cover=Real(0.2, 0.55, 0.05, 0.9),
    softness=Real(0.05, 0.2, 0.01, 0.5),
    seed=SEED,
)
def blurred_mask(
    image: Image.Image, donors: Donors, cover: float, softness: float, seed: int
) -> Step:
    """Let another photograph show through soft blobs that cover about that share."""
    # A smooth random field, thresholded at the quantile of the share, with a soft edge.
    field = np.random.default_rng(seed).standard_normal((6, 6)).astype(np.float32)
    field = cv2.resize(field, (64, 64), interpolation=cv2.INTER_CUBIC)
    threshold = np.quantile(field, 1 - cover)
    soft = np.clip(0.5 + (field - threshold) / (6 * softness * field.std()), 0, 1)
    alpha = cv2.resize(soft, image.size, interpolation=cv2.INTER_LINEAR)  # (H, W)
    other = _cover(donors[0], image.size)
    mask = Image.fromarray(np.rint(alpha * 255).astype(np.uint8))
    hidden = np.asarray(mask, np.float32) / 255
    return Step(Image.composite(other, image, mask), hidden=hidden)


@operation(
    "composition",
    needs_donor=True,
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
        canvas.paste(_cover(donors[number % len(donors)], tuple(tile)), (x, y))
    canvas.paste(image, tiles[slot][:2])
    return Step(canvas, shift(*tiles[slot][:2]))


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


def _cover(donor: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a photograph, scaled to fill (width, height) px exactly."""
    scale = max(size[0] / donor.width, size[1] / donor.height)
    width, height = size[0] / scale, size[1] / scale  # of the part that is used, donor px
    left, top = (donor.width - width) / 2, (donor.height - height) / 2
    box = (max(0.0, left), max(0.0, top))
    box = (*box, min(donor.width, box[0] + width), min(donor.height, box[1] + height))
    gap = 3.0 if math.log2(max(1 / scale, 1)) > 1 else None
    return donor.convert("RGB").resize(size, BILINEAR, box=box, reducing_gap=gap)
