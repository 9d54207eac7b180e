"""Edits that show the picture elsewhere: on a generated canvas, a page, an app or a screen."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from iscutils.edits import assets
from iscutils.edits.layers import Layer, corner_of, fitted, own_box, smooth_field
from iscutils.edits.parameters import POSITION, SEED, Choice, Colour, Real
from iscutils.edits.pixels import to_image, to_pixels
from iscutils.edits.record import (
    Step,
    corners,
    homography_between,
    scaling,
    shift,
    warp,
)
from iscutils.edits.registry import operation

DRAWN = {"browser": "browser", "phone": "phone", "web": "browser", "mobile": "phone"}


@operation("overlay", style=Choice(tuple(DRAWN)), dark=Choice((False, True)), seed=SEED)
def screenshot(image: Image.Image, style: str, dark: bool, seed: int) -> Step:
    """Show the picture on a screen: in a drawn browser or phone app, or on a page of AugLy's.

    Without AugLy its styles "web" and "mobile" become "browser" and "phone".
    """
    template = assets.screen_template(style) if style in ("web", "mobile") else None
    if template is not None:
        page, box = template
        return _on_template(image, _dark_page(style) if dark else page, box)
    return _drawn_screen(image, DRAWN[style], dark, seed)


def _on_template(image: Image.Image, page: Image.Image, box: tuple[int, int, int, int]) -> Step:
    """Fit a picture into the box of a page, in the middle, proportions kept."""
    room = (box[2] - box[0], box[3] - box[1])
    scale = min(room[0] / image.width, room[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    corner = (box[0] + (room[0] - size[0]) // 2, box[1] + (room[1] - size[1]) // 2)
    canvas = page.copy()
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0), corner)
    return _shown(canvas, image.size, size, corner)


def _shown(canvas: Image.Image, before: tuple, size: tuple, corner: tuple) -> Step:
    """The step of a picture resized and pasted on a screen."""
    matrix = shift(*corner) @ scaling(before, size)
    return Step(canvas, matrix, boxes=(own_box(matrix, before),))


@lru_cache(maxsize=2)
def _dark_page(style: str) -> Image.Image:
    """A page in dark mode: the interface's lightness is turned round, photographs stay."""
    page, box = assets.screen_template(style)
    pixels = to_pixels(page)
    light = (pixels.min(2) > 225).astype(np.uint8)
    # Text and icons are thin and lie on light ground; photographs are large holes in it.
    ground = cv2.morphologyEx(light, cv2.MORPH_CLOSE, np.ones((25, 25), np.uint8))
    ground[box[1] + 8 : box[3] - 8, box[0] + 8 : box[2] - 8] = 0  # 8: the corners are rounded
    # Every pixel keeps its colour and moves from lightness L to 235 - 0.85 L.
    lightness = (pixels.max(2).astype(np.float32) + pixels.min(2))[..., None] / 2
    turned = np.clip(np.rint(235.0 + pixels - 1.85 * lightness), 0, 235).astype(np.uint8)
    return to_image(np.where(ground[..., None] > 0, turned, pixels))


def _drawn_screen(image: Image.Image, style: str, dark: bool, seed: int) -> Step:
    # The screen is about 1,000 px wide at most: a capture has the screen's resolution.
    scale = min(1.0, 900 / image.width, 1400 / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
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
    return _shown(canvas, image.size, size, corner)


@operation(
    "overlay",
    height=Real(0.05, 0.1, 0.02, 0.3),
    dark=Choice((False, True)),
    opacity=Real(0.6, 1.0, 0.0, 1.0),
    seed=SEED,
)
def interface_bars(
    image: Image.Image, height: float, dark: bool, opacity: float, seed: int
) -> Step:
    """Cover the upper and lower margin with the title and tool bars of a viewer app."""
    bar = max(1, round(height * image.height))
    tone, ink = ((24, 25, 28), (224, 224, 228)) if dark else ((246, 246, 248), (40, 42, 46))
    rng = np.random.default_rng(seed)
    title, tools = (
        Image.new("RGB", (image.width, bar), tone),
        Image.new("RGB", (image.width, bar), tone),
    )
    line = assets.font("latin", 3, max(4, round(0.5 * bar)))
    mask = assets.text_mask(assets.words("latin", rng, 2), line)
    title.paste(ink, (bar, (bar - mask.height) // 2), mask)
    arrow = [(0.7 * bar, 0.25 * bar), (0.3 * bar, 0.5 * bar), (0.7 * bar, 0.75 * bar)]
    ImageDraw.Draw(title).line(arrow, ink, max(1, bar // 12))
    for i in range(4):
        icon = assets.emblem(int(rng.integers(10)), max(1, round(0.6 * bar)))
        x = round((i + 0.5) * image.width / 4 - icon.width / 2)
        tools.paste(ink, (x, (bar - icon.height) // 2), icon)
    layer, solid = Layer(image), Image.new("L", (image.width, bar), 255)
    layer.add(title, solid, (0, 0), opacity, "sticker")
    layer.add(tools, solid, (0, image.height - bar), opacity, "sticker")
    return layer.step()


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
    pixels = to_pixels(warp(image, matrix, image.size, (18, 18, 20)))
    turn = rng.uniform(0, math.pi)
    x = np.arange(image.width, dtype=np.float32) * (2 * math.pi * math.cos(turn) / period)
    y = np.arange(image.height, dtype=np.float32)[:, None] * (2 * math.pi * math.sin(turn) / period)
    # sin(x + y) as two products of a row and a column: no sine per pixel
    wave = 1 + moire * (np.sin(x) * np.cos(y) + np.cos(x) * np.sin(y))
    tints = (1 + warmth, 1.0, 1 - warmth)
    channels = [
        cv2.multiply(channel, wave, scale=tint, dtype=cv2.CV_8U)
        for channel, tint in zip(cv2.split(pixels), tints, strict=True)
    ]
    return Step(to_image(cv2.merge(channels)), matrix)


@operation(
    "composition",
    kind=Choice(("plain", "gradient", "noise", "blurred")),
    scale=Real(0.3, 0.9, 0.05, 1.0),
    aspect=Real(0.66, 1.5, 0.25, 4.0, log=True),
    x=POSITION,
    y=POSITION,
    colour=Colour(),
    second=Colour(),
    seed=SEED,
)
def canvas(
    image: Image.Image,
    kind: str,
    scale: float,
    aspect: float,
    x: float,
    y: float,
    colour: tuple,
    second: tuple,
    seed: int,
) -> Step:
    """Put the picture on a plain, gradient or noise canvas, or on a blurred copy of itself.

    aspect: factor of the canvas's width / height against the picture's, the area stays.
    """
    size = (
        max(1, round(image.width * math.sqrt(aspect))),
        max(1, round(image.height / math.sqrt(aspect))),
    )
    made = _ground(image, kind, size, (tuple(colour), tuple(second)), np.random.default_rng(seed))
    new = fitted(image.size, size, scale)
    corner = corner_of(new, size, x, y)
    made.paste(image.resize(new, Image.Resampling.BILINEAR, reducing_gap=3.0), corner)
    return _shown(made, image.size, new, corner)


def _ground(
    image: Image.Image, kind: str, size: tuple, colours: tuple, rng: np.random.Generator
) -> Image.Image:
    """A canvas of (width, height) px; `canvas` says of which kinds."""
    if kind == "plain":
        return Image.new("RGB", size, colours[0])
    if kind == "blurred":
        coarse = np.asarray(image.resize((24, 24), Image.Resampling.BOX))
        return to_image(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    if kind == "gradient":
        turn = rng.uniform(0, 2 * math.pi)
        x, y = np.arange(16) * math.cos(turn), np.arange(16)[:, None] * math.sin(turn)
        share = x + y
        share = (share - share.min()) / np.ptp(share)
        shades = np.multiply.outer(1 - share, colours[0]) + np.multiply.outer(share, colours[1])
        shades = shades.astype(np.float32)
    else:
        light, tint = smooth_field(rng, 12)[..., None], smooth_field(rng, 6, 3)
        shades = np.array(colours[0], np.float32) + 35 * light + 20 * tint
    spread = cv2.resize(shades, size, interpolation=cv2.INTER_LINEAR)
    if kind == "noise":
        spread += 25 * rng.standard_normal((size[1], size[0], 1), np.float32)
    return to_image(cv2.convertScaleAbs(np.maximum(spread, 0)))
