"""Edits that hide parts of the picture or mark it: patches, frames, grids, strokes, watermarks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from iscutils.edits import assets
from iscutils.edits.layers import BILINEAR, Layer, corner_of, shape_mask
from iscutils.edits.overlays import FACE, OPACITY
from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real, Whole
from iscutils.edits.record import Step
from iscutils.edits.registry import operation

LEAST_VISIBLE = 0.25  # patches stop before less than this share of the picture can be seen
RATIO = Real(0.3, 3.3, 0.05, 20.0, log=True)  # width / height of a rectangle, px


@operation(
    "overlay",
    area=Real(0.02, 0.33, 0.0, 1.0),
    ratio=RATIO,
    x=POSITION,
    y=POSITION,
    fill=Choice(("noise", "colour")),
    colour=Colour(),
    seed=SEED,
)
def erase(
    image: Image.Image,
    area: float,
    ratio: float,
    x: float,
    y: float,
    fill: str,
    colour: tuple,
    seed: int,
) -> Step:
    """Replace a rectangle of a share of the area by noise or a colour.

    Random erasing (Zhong et al. 2020). A rectangle that is too long is made shorter and wider.
    """
    width, height = _rectangle(image.size, area, ratio)
    ink = tuple(colour)
    if fill == "noise":
        ink = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        ink = Image.fromarray(ink) if ink.size else (0, 0, 0)
    layer = Layer(image)
    if width and height:
        solid = Image.new("L", (width, height), 255)
        layer.add(ink, solid, corner_of(solid.size, image.size, x, y), kind="sticker")
    return layer.step()


def _rectangle(size: tuple[int, int], area: float, ratio: float) -> tuple[int, int]:
    """Width and height px of a rectangle with a share of the area and width / height."""
    total = area * size[0] * size[1]
    width = min(size[0], max(math.sqrt(total * ratio), total / size[1]))
    return round(width), min(size[1], round(total / max(1, round(width))))


@operation(
    "overlay",
    area=Real(0.05, 0.3, 0.0, 1.0),
    ratio=RATIO,
    x=POSITION,
    y=POSITION,
    cells=Whole(3, 8, 1, 64),
    kind=Choice(("pixels", "blur")),
)
def censor(
    image: Image.Image, area: float, ratio: float, x: float, y: float, cells: int, kind: str
) -> Step:
    """Make a rectangle unrecognisable by coarse pixels or blur; it counts as hidden.

    cells: how many coarse pixels along the rectangle's shorter side.
    """
    width, height = _rectangle(image.size, area, ratio)
    layer = Layer(image)
    if width and height:
        left, top = corner_of((width, height), image.size, x, y)
        side = max(1.0, min(width, height) / cells)
        part = image.crop((left, top, left + width, top + height))
        part = part.resize((max(1, round(width / side)), max(1, round(height / side))), BILINEAR)
        way = Image.Resampling.NEAREST if kind == "pixels" else Image.Resampling.BICUBIC
        solid = Image.new("L", (width, height), 255)
        layer.add(part.resize((width, height), way), solid, (left, top))
    return layer.step()


@operation("composition", donors=3, target=Real(0.3, 0.7, LEAST_VISIBLE, 0.95), seed=SEED)
def patches(image: Image.Image, donors: Sequence[Image.Image], target: float, seed: int) -> Step:
    """Cover the picture with opaque patches until less than the target share can be seen.

    Patches have sides of 0.2 to 0.6 of the picture's: 60 % parts of other photographs, 25 % plain
    colours, 15 % emoji or words. At least a quarter of the picture stays visible.
    """
    rng, layer, visible = np.random.default_rng(seed), Layer(image), 1.0
    for _ in range(60):  # enough for any target; patches that would hide too much are passed over
        if visible < target:
            break
        sides = rng.uniform(0.2, 0.6, 2) * image.size
        ink, alpha, kind = _patch(donors, tuple(max(1, round(side)) for side in sides), rng)
        corner = corner_of(alpha.size, image.size, *rng.uniform(0, 1, 2))
        loss = layer.newly_hidden(alpha, corner)
        if visible - loss >= LEAST_VISIBLE:
            layer.add(ink, alpha, corner, kind=kind)
            visible -= loss
    return layer.step()


def _patch(
    donors: Sequence[Image.Image], size: tuple[int, int], rng: np.random.Generator
) -> tuple[Image.Image | tuple, Image.Image, str]:
    """What to paste, its mask of at most (width, height) px, and its kind of box."""
    what = rng.choice(["photo", "colour", "emoji", "text"], p=[0.6, 0.25, 0.075, 0.075])
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    if what == "photo":
        donor = donors[int(rng.integers(len(donors)))].convert("RGB")
        keep, (x, y) = rng.uniform(0.4, 1.0), rng.uniform(0, 1, 2)
        width, height = keep * donor.width, keep * donor.height
        left, top = x * (donor.width - width), y * (donor.height - height)
        box = (left, top, left + width, top + height)
        part = donor.resize(size, BILINEAR, box=box, reducing_gap=3.0)
        return part, Image.new("L", size, 255), "photo"
    if what == "emoji":
        picture = assets.emoji(int(rng.integers(2**31)), min(size))
        return picture.convert("RGB"), picture.getchannel("A"), "sticker"
    if what == "text":
        font = assets.font("latin", int(rng.integers(14)), max(4, min(size)))
        mask = assets.text_mask(assets.words("latin", rng, 1), font)
        scale = min(size[0] / mask.width, size[1] / mask.height)
        new = [max(1, min(most, round(n * scale))) for n, most in zip(mask.size, size, strict=True)]
        return colour, mask.resize(new), "sticker"
    return colour, Image.new("L", size, 255), "sticker"


@operation(
    "overlay",
    width=Real(0.02, 0.08, 0.0, 0.4),
    style=Choice(("plain", "rounded", "double", "oval")),
    opacity=Real(0.7, 1.0, 0.0, 1.0),
    colour=Colour(),
)
def frame(image: Image.Image, width: float, style: str, opacity: float, colour: tuple) -> Step:
    """Draw a frame over the margin; its width is a share of the shorter side."""
    edge = round(width * min(image.size))
    inner = (image.width - 2 * edge, image.height - 2 * edge)
    layer, mask = Layer(image), Image.new("L", image.size, 255)
    if edge and min(inner) > 0:
        hole = {"rounded": "rounded", "oval": "ellipse"}.get(style, "rectangle")
        mask.paste(0, (edge, edge), shape_mask(inner, hole))
        if style == "double":
            box = (edge // 3, edge // 3, image.width - 1 - edge // 3, image.height - 1 - edge // 3)
            ImageDraw.Draw(mask).rectangle(box, outline=0, width=max(1, edge // 4))
        layer.add(tuple(colour), mask, (0, 0), opacity)
    return layer.step()


@operation(
    "overlay",
    number=Whole(3, 10, 1, 60),
    width=Real(0.02, 0.12, 0.0, 0.9),
    opacity=Real(0.5, 1.0, 0.0, 1.0),
    colour=Colour(),
)
def grid_lines(
    image: Image.Image, number: int, width: float, opacity: float, colour: tuple
) -> Step:
    """Lay a grid over the picture: so many meshes along the shorter side, lines of their share."""
    period = min(image.size) / number

    def lines(length: int) -> np.ndarray:
        # Lines have their middle between two meshes, also at the rim.
        return np.mod((np.arange(length) + 0.5) / period + width / 2, 1.0) < width

    grid = lines(image.height)[:, None] | lines(image.width)
    layer = Layer(image)
    layer.add(tuple(colour), Image.fromarray(grid.astype(np.uint8) * 255), (0, 0), opacity)
    return layer.step()


@operation(
    "overlay",
    count=Whole(1, 5, 1, 40),
    width=Real(0.005, 0.03, 0.001, 0.2),
    reach=Real(0.2, 0.8, 0.05, 2.0),
    opacity=OPACITY,
    colour=Colour(),
    seed=SEED,
)
def scribble(
    image: Image.Image,
    count: int,
    width: float,
    reach: float,
    opacity: float,
    colour: tuple,
    seed: int,
) -> Step:
    """Draw freehand strokes; their width and reach are shares of the shorter side."""
    rng, short = np.random.default_rng(seed), min(image.size)
    thick = max(1, round(width * short))
    layer = Layer(image)
    for _ in range(count):
        start, turns = rng.uniform(0, 1, 2) * image.size, rng.normal(0, 1.0, 6).cumsum()
        steps = np.stack([np.cos(turns), np.sin(turns)], 1) * reach * short / 3
        points = (start + np.vstack([(0, 0), steps]).cumsum(0)).astype(np.float32)  # (7, 2)
        curve = cv2.resize(points[:, None], (1, 64), interpolation=cv2.INTER_CUBIC)
        curve = cv2.GaussianBlur(curve.reshape(64, 1, 2), (1, 9), 2.5)
        low = np.floor(curve.min((0, 1))).astype(int) - thick
        extent = np.ceil(curve.max((0, 1))).astype(int) + thick + 1 - low
        mask = np.zeros((int(extent[1]), int(extent[0])), np.uint8)
        path = np.rint((curve - low) * 8).astype(np.int32)  # in eighths of a px
        cv2.polylines(mask, [path], False, 255, thick, cv2.LINE_AA, 3)
        corner = (int(low[0]), int(low[1]))
        layer.add(tuple(colour), Image.fromarray(mask), corner, opacity, "sticker")
    return layer.step()


@operation(
    "overlay",
    size=Real(0.04, 0.1, 0.01, 0.5),
    gap=Real(1.0, 4.0, 0.0, 20.0),
    angle=Real(-45.0, 45.0, -180.0, 180.0),
    opacity=Real(0.2, 0.5, 0.0, 1.0),
    script=Choice(assets.SCRIPTS),
    face=FACE,
    colour=Colour(),
    seed=SEED,
)
def watermark(
    image: Image.Image,
    size: float,
    gap: float,
    angle: float,
    opacity: float,
    script: str,
    face: int,
    colour: tuple,
    seed: int,
) -> Step:
    """Repeat a faint word all over the picture at an angle; `gap` in heights of its letters."""
    height = max(4, round(size * min(image.size)))
    rng, font = np.random.default_rng(seed), assets.font(script, face, height)
    word = np.asarray(assets.text_mask(assets.words(script, rng, 2), font))
    space = round(gap * height)
    row = np.pad(word, ((0, space), (0, space)))
    # Every second row is moved by half a period; the pattern then repeats without end.
    tile = np.concatenate([row, np.roll(row, row.shape[1] // 2, axis=1)])
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    mask = cv2.warpAffine(tile, turn, image.size, flags=flags, borderMode=cv2.BORDER_WRAP)
    layer = Layer(image)
    layer.add(tuple(colour), Image.fromarray(mask), (0, 0), opacity)
    return layer.step()
