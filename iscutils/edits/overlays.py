"""Edits that put something on the picture or around it: emoji, text, stripes, captions, frames."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from iscutils.edits import assets
from iscutils.edits.parameters import SEED, Choice, Colour, Real, Whole
from iscutils.edits.record import (
    Step,
    corners,
    homography_between,
    scaling,
    shift,
    warp,
)
from iscutils.edits.registry import operation

OPACITY = Real(0.6, 1.0, 0.05, 1.0)
FACE = Whole(0, 13, 0, 1000)  # number of the font, modulo how many the script has


@operation(
    "overlay",
    count=Whole(1, 2, 1, 20),
    size=Real(0.2, 0.5, 0.02, 1.0),
    opacity=OPACITY,
    turn=Real(-30.0, 30.0, -180.0, 180.0),
    seed=SEED,
)
def sticker(
    image: Image.Image, count: int, size: float, opacity: float, turn: float, seed: int
) -> Step:
    """Stick emoji on, each at most `size` of the shorter side wide; they may hang over the edge."""
    rng = np.random.default_rng(seed)
    layer = _Layer(image)
    for _ in range(count):
        side = max(2, round(size * rng.uniform(0.6, 1.0) * min(image.size)))
        number, x, y = int(rng.integers(2**31)), *rng.uniform(0, 1, 2)
        picture = assets.emoji(number, side).rotate(turn, Image.Resampling.BILINEAR)
        corner = round(x * image.width - side / 2), round(y * image.height - side / 2)
        layer.add(picture.convert("RGB"), picture.getchannel("A"), corner, opacity)
    return layer.step()


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
    layer = _Layer(image)
    for _ in range(lines):
        mask = assets.text_mask(assets.words(script, rng), font)
        x, y = rng.uniform(0, 1, 2)
        # A line longer than the picture starts left of it, so that its middle can show.
        corner = round(x * (image.width - mask.width)), round(y * (image.height - mask.height))
        layer.add(tuple(colour), mask, corner, opacity)
    return layer.step()


@operation(
    "overlay",
    number=Whole(4, 14, 1, 60),
    width=Real(0.1, 0.45, 0.02, 0.9),
    angle=Real(-90.0, 90.0, -180.0, 180.0),
    opacity=Real(0.5, 1.0, 0.05, 1.0),
    colour=Colour(),
)
def stripes(
    image: Image.Image, number: int, width: float, angle: float, opacity: float, colour: tuple
) -> Step:
    """Cover the picture with parallel stripes; `width` is the share of a period they fill."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x = np.arange(image.width, dtype=np.float32) * (cosine * number / min(image.size))
    y = np.arange(image.height, dtype=np.float32)[:, None] * (sine * number / min(image.size))
    mask = Image.fromarray((((x + y) % 1.0) < width).astype(np.uint8) * np.uint8(255))
    layer = _Layer(image)
    layer.add(tuple(colour), mask, (0, 0), opacity)
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
    rng = np.random.default_rng(seed)
    for used, middle in ((top, top / 2), (bottom, canvas.height - bottom / 2)):
        if used:
            font = assets.font(script, face, max(4, round(0.5 * bar)))
            mask = assets.text_mask(assets.words(script, rng), font)
            shrink = min(1.0, 0.9 * image.width / mask.width, 0.9 * bar / mask.height)
            mask = mask.resize([max(1, int(side * shrink)) for side in mask.size])
            corner = (canvas.width - mask.width) // 2, round(middle - mask.height / 2)
            canvas.paste(ink, corner, mask)
    return Step(canvas, shift(0, top))


@operation("overlay", style=Choice(("browser", "phone")), dark=Choice((False, True)), seed=SEED)
def screenshot(image: Image.Image, style: str, dark: bool, seed: int) -> Step:
    """Show the picture in a drawn browser window or phone app, as on a screen."""
    # The screen is about 1,000 px wide at most: a capture has the screen's resolution.
    scale = min(1.0, 900 / image.width, 1400 / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.BILINEAR)
    unit = max(6, min(28, round(0.06 * max(size))))  # height of a line of the interface, px
    side = unit if style == "phone" else 3 * unit
    top, bottom = 4 * unit, (7 * unit if style == "phone" else 2 * unit)
    width, height = max(size[0], 12 * unit) + 2 * side, size[1] + top + bottom
    paper, tone, ink = ((24, 25, 28), (52, 54, 60), (214, 214, 218))
    if not dark:
        paper, tone, ink = ((255, 255, 255), (228, 230, 235), (40, 42, 46))
    canvas = Image.new("RGB", (width, height), paper)
    pen, rng = ImageDraw.Draw(canvas), np.random.default_rng(seed)
    line = assets.font("latin", 3, max(5, round(0.6 * unit)))
    pen.rectangle((0, 0, width, unit), fill=tone)
    pen.text((unit // 2, unit // 5), assets.words("latin", rng), fill=ink, font=line)
    if style == "browser":
        for i, colour in enumerate(((237, 106, 94), (245, 191, 79), (98, 197, 84))):
            x = width - unit * (i + 1)
            pen.ellipse((x, unit // 4, x + unit // 2, unit * 3 // 4), fill=colour)
        pen.rounded_rectangle((unit, unit * 3 // 2, width - unit, unit * 3), unit // 2, fill=tone)
        pen.text((2 * unit, unit * 7 // 4), assets.words("latin", rng, 2), fill=ink, font=line)
    else:
        pen.ellipse((unit, unit * 3 // 2, unit * 3, unit * 7 // 2), fill=tone)
        pen.text((unit * 7 // 2, 2 * unit), assets.words("latin", rng, 2), fill=ink, font=line)
        for i in range(3):
            y = height - bottom + unit * (2 + 3 * i // 2)
            pen.text((unit, y), assets.words("latin", rng, 5), fill=ink, font=line)
    corner = ((width - size[0]) // 2, top)
    canvas.paste(shown, corner)
    return Step(canvas, shift(*corner) @ scaling(image.size, size))


@operation(
    "overlay",
    tilt=Real(0.01, 0.08, 0.0, 0.2),
    moire=Real(0.03, 0.12, 0.0, 0.5),
    period=Real(2.5, 6.0, 2.0, 20.0),
    warmth=Real(-0.15, 0.15, -0.5, 0.5),
    seed=SEED,
)
def recapture(
    image: Image.Image, tilt: float, moire: float, period: float, warmth: float, seed: int
) -> Step:
    """Photograph it from a screen: slight perspective, moire of some px period, warm or cold."""
    rng = np.random.default_rng(seed)
    source = corners(image.size)
    moves = rng.uniform(0, tilt, (4, 2)) * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    matrix = homography_between(source, source + moves * image.size)
    pixels = np.asarray(warp(image, matrix, image.size, (18, 18, 20))).astype(np.float32)
    turn = rng.uniform(0, math.pi)
    x = np.arange(image.width, dtype=np.float32) * (2 * math.pi * math.cos(turn) / period)
    y = np.arange(image.height, dtype=np.float32)[:, None] * (2 * math.pi * math.sin(turn) / period)
    pixels *= (1 + moire * np.sin(x + y))[..., None]
    pixels *= np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
    return Step(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), matrix)


class _Layer:
    """Collects things pasted on a copy of a picture and what they hide."""

    def __init__(self, image: Image.Image):
        self.image, self.mask = image.copy(), Image.new("L", image.size)

    def add(
        self, ink: Image.Image | tuple, alpha: Image.Image, corner: tuple, opacity: float
    ) -> None:
        """Paste a picture or a colour through an "L" mask times an opacity, at a corner."""
        if opacity < 1:
            alpha = alpha.point([round(value * opacity) for value in range(256)])
        self.image.paste(ink, corner, alpha)
        self.mask.paste(255, corner, alpha)  # a + (255 - a) alpha / 255: the union of both

    def step(self) -> Step:
        return Step(self.image, hidden=np.asarray(self.mask, np.float32) / 255)
