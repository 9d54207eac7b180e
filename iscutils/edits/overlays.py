"""Edits that put emoji, words, stripes and captions on the picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from iscutils.edits import assets
from iscutils.edits.layers import UNITS, Layer, bounds, corner_of
from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real, Whole
from iscutils.edits.record import Box, Step, rectangle, shift
from iscutils.edits.registry import operation

OPACITY = Real(0.6, 1.0, 0.0, 1.0)
FACE = Whole(0, 13, 0, 1000)  # number of the font, modulo how many the script has
TURN = Real(-30.0, 30.0, -180.0, 180.0)  # degrees, counter-clockwise
LARGEST_EMOJI = 256  # px; files have 72, so that what is larger is only interpolated once more


@operation(
    "overlay",
    count=Whole(1, 2, 1, 20),
    size=Real(0.2, 0.5, 0.02, 1.0),
    opacity=OPACITY,
    turn=TURN,
    seed=SEED,
)
def sticker(
    image: Image.Image, count: int, size: float, opacity: float, turn: float, seed: int
) -> Step:
    """Stick emoji on, each at most `size` of the shorter side wide; they may hang over the edge."""
    rng = np.random.default_rng(seed)
    layer = Layer(image)
    for _ in range(count):
        side = max(2, round(size * rng.uniform(0.6, 1.0) * min(image.size)))
        number, x, y = int(rng.integers(2**31)), *rng.uniform(0, 1, 2)
        picture, extent = _turned_emoji(number, side, turn)
        corner = round(x * image.width - extent[0] / 2), round(y * image.height - extent[1] / 2)
        layer.add_picture(picture, extent, corner, opacity)
    return layer.step()


@operation(
    "overlay",
    number=SEED,
    size=Real(0.1, 0.5, 0.01, 1.0),
    x=POSITION,
    y=POSITION,
    units=UNITS,
    turn=TURN,
    opacity=OPACITY,
)
def emoji(
    image: Image.Image,
    number: int,
    size: float,
    x: float,
    y: float,
    units: str,
    turn: float,
    opacity: float,
) -> Step:
    """Put one emoji on; `size` is its share of the shorter side, or of the height as in AugLy."""
    if units == "canvas":
        side = max(1, int(size * image.height))
    else:
        side = max(2, round(size * min(image.size)))
    picture, extent = _turned_emoji(number, side, turn)
    layer = Layer(image)
    layer.add_picture(picture, extent, corner_of(extent, image.size, x, y, units), opacity)
    return layer.step()


def _turned_emoji(number: int, side: int, turn: float) -> tuple[Image.Image, tuple[int, int]]:
    """An emoji (RGBA), turned, and the (width, height) px it shall be given when it is pasted."""
    drawn = min(side, LARGEST_EMOJI)
    picture = assets.emoji(number, drawn)
    if turn:
        picture = picture.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    width, height = (round(length * side / drawn) for length in picture.size)
    return picture, (width, height)


@operation(
    "overlay",
    lines=Whole(1, 3, 1, 20),
    size=Real(0.08, 0.2, 0.02, 0.8),
    script=Choice(assets.SCRIPTS),
    face=FACE,
    opacity=OPACITY,
    colour=Colour(),
    seed=SEED,
)
def text(
    image: Image.Image,
    lines: int,
    size: float,
    script: str,
    face: int,
    opacity: float,
    colour: tuple,
    seed: int,
) -> Step:
    """Write made-up words anywhere on the picture, in one of seven scripts."""
    rng = np.random.default_rng(seed)
    font = assets.font(script, face, max(4, round(size * min(image.size))))
    layer = Layer(image)
    for _ in range(lines):
        mask = assets.text_mask(assets.words(script, rng), font)
        # A line longer than the picture starts left of it, so that its middle can show.
        corner = corner_of(mask.size, image.size, *rng.uniform(0, 1, 2))
        layer.add(tuple(colour), mask, corner, opacity, "sticker")
    return layer.step()


@operation(
    "overlay",
    lines=Whole(1, 3, 1, 20),
    length=Whole(5, 10, 0, 100),
    size=Real(0.1, 0.3, 0.01, 1.0),
    x=POSITION,
    y=POSITION,
    units=UNITS,
    script=Choice(assets.SCRIPTS),
    face=FACE,
    opacity=OPACITY,
    colour=Colour(),
    seed=SEED,
)
def glyphs(
    image: Image.Image,
    lines: int,
    length: int,
    size: float,
    x: float,
    y: float,
    units: str,
    script: str,
    face: int,
    opacity: float,
    colour: tuple,
    seed: int,
) -> Step:
    """Write lines of random characters, the font's height a share of the shorter side.

    In free units a line that is too long is cut to the longest beginning that fits (SSCD, Pizzi et
    al. 2022), and lines that do not fit are left out. In canvas units (AugLy) x, y is where the
    pen starts, lines are 5 px apart, and what leaves the picture is cut.
    """
    rng = np.random.default_rng(seed)
    height = int(size * min(image.size))
    font = assets.font(script, face, max(4, height))
    alphabet = np.array(list(assets.letters(script)))
    rows = ["".join(rng.choice(alphabet, length)) for _ in range(lines)]
    layer = Layer(image)
    if units == "canvas":
        mask, corner = Image.new("L", image.size), (0, 0)
        pen = ImageDraw.Draw(mask)
        for i, row in enumerate(rows):
            start = (x * image.width, y * image.height + i * (height + 5))
            pen.text(start, row, fill=255, font=font)
    else:
        masks = [assets.text_mask(_fitting(row, font, image.width), font) for row in rows]
        mask = _stacked(masks, max(1, height // 4), image.height)
        corner = corner_of(mask.size, image.size, x, y)
    layer.add(tuple(colour), mask, corner, opacity, "sticker")
    return layer.step()


def _fitting(row: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The longest beginning of a text that is at most so many px wide."""
    advance = {letter: font.getlength(letter) for letter in set(row)}
    ends = np.cumsum([advance[letter] for letter in row])
    row = row[: int(np.searchsorted(ends, width)) + 1]  # about: ink is no advance
    while row:
        left, _, right, _ = font.getbbox(row)
        if right - left <= width:
            break
        row = row[:-1]
    return row


def _stacked(masks: list[Image.Image], gap: int, limit: int) -> Image.Image:
    """Masks below each other, as many as a height of `limit` px allows, but at least 1 x 1 px."""
    tops = np.cumsum([0, *(mask.height + gap for mask in masks)])
    kept = [
        (top, mask) for top, mask in zip(tops, masks, strict=False) if top + mask.height <= limit
    ]
    width = max((mask.width for _, mask in kept), default=1)
    stacked = Image.new("L", (width, max((int(t) + m.height for t, m in kept), default=1)))
    for top, mask in kept:
        stacked.paste(mask, (0, int(top)))
    return stacked


@operation(
    "overlay",
    number=Whole(0, 9, 0, 2**31 - 1),
    size=Real(0.08, 0.18, 0.02, 0.6),
    corner=Choice(("top left", "top right", "bottom left", "bottom right")),
    opacity=OPACITY,
    face=FACE,
    colour=Colour(),
    seed=SEED,
)
def logo(
    image: Image.Image,
    number: int,
    size: float,
    corner: str,
    opacity: float,
    face: int,
    colour: tuple,
    seed: int,
) -> Step:
    """Put a drawn emblem and a name into a corner, `size` of the shorter side high."""
    rng = np.random.default_rng(seed)
    height = max(4, round(size * min(image.size)))
    emblem = assets.emblem(number, height)
    font = assets.font("latin", face, max(4, round(0.6 * height)))
    name = assets.text_mask(assets.words("latin", rng, 1), font)
    mask = Image.new("L", (emblem.width + height // 4 + name.width, max(height, name.height)))
    mask.paste(emblem, (0, (mask.height - height) // 2))
    mask.paste(name, (mask.width - name.width, (mask.height - name.height) // 2))
    scale = min(1.0, 0.8 * image.width / mask.width)  # long names on narrow pictures
    mask = mask.resize([max(1, round(length * scale)) for length in mask.size])
    margin = round(0.03 * min(image.size))
    x = margin if "left" in corner else image.width - mask.width - margin
    y = margin if "top" in corner else image.height - mask.height - margin
    layer = Layer(image)
    layer.add(tuple(colour), mask, (x, y), opacity, "sticker")
    return layer.step()


@operation(
    "overlay",
    number=Whole(4, 14, 1, 60),
    width=Real(0.1, 0.45, 0.02, 0.9),
    angle=Real(-90.0, 90.0, -180.0, 180.0),
    opacity=Real(0.5, 1.0, 0.0, 1.0),
    colour=Colour(),
)
def stripes(
    image: Image.Image, number: int, width: float, angle: float, opacity: float, colour: tuple
) -> Step:
    """Cover the picture with parallel stripes; `width` is the share of a period they fill."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x = np.arange(image.width, dtype=np.float32) * (cosine * number / min(image.size))
    y = np.arange(image.height, dtype=np.float32)[:, None] * (sine * number / min(image.size))
    phase = x + y
    phase -= np.floor(phase)
    layer = Layer(image)
    layer.add(
        tuple(colour), Image.fromarray((phase < width).astype(np.uint8) * 255), (0, 0), opacity
    )
    return layer.step()


@operation(
    "overlay",
    height=Real(0.12, 0.3, 0.03, 1.0),
    place=Choice(("top", "bottom", "both")),
    dark=Choice((False, True)),
    script=Choice(assets.SCRIPTS),
    face=FACE,
    seed=SEED,
)
def meme(
    image: Image.Image, height: float, place: str, dark: bool, script: str, face: int, seed: int
) -> Step:
    """Add a caption bar above, below or both, its height a share of the picture's."""
    bar = max(1, round(height * image.height))
    top, bottom = (bar if place != "bottom" else 0), (bar if place != "top" else 0)
    paper, ink = ((0, 0, 0), (255, 255, 255)) if dark else ((255, 255, 255), (0, 0, 0))
    canvas = Image.new("RGB", (image.width, image.height + top + bottom), paper)
    canvas.paste(image, (0, top))
    boxes = [Box("original", rectangle(0, top, image.width, top + image.height))]
    rng = np.random.default_rng(seed)
    font = assets.font(script, face, max(4, round(0.5 * bar)))
    for used, middle in ((top, top / 2), (bottom, canvas.height - bottom / 2)):
        if used:
            mask = assets.text_mask(assets.words(script, rng), font)
            shrink = min(1.0, 0.9 * image.width / mask.width, 0.9 * bar / mask.height)
            mask = mask.resize([max(1, int(side * shrink)) for side in mask.size])
            corner = (canvas.width - mask.width) // 2, round(middle - mask.height / 2)
            canvas.paste(ink, corner, mask)
            boxes += bounds(mask, corner, canvas.size, "sticker")
    return Step(canvas, shift(0, top), boxes=tuple(boxes))
