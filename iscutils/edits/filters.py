"""What people do to pictures with apps, drawing filters, screens and printers; geometry stays."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.degrading import smooth
from iscutils.edits.parameters import SEED, Choice, Colour, Real, Whole
from iscutils.edits.photometric import darken_corners, saturate
from iscutils.edits.pixels import to_image, to_pixels
from iscutils.edits.record import Step
from iscutils.edits.registry import operation

KNOTS = (0, 64, 128, 192, 255)  # inputs at which a look gives its outputs; straight between them


class Look(NamedTuple):
    """One app filter: saturation first, then a curve per channel, glow and dark corners."""

    saturation: float
    red: tuple[int, ...]
    green: tuple[int, ...]
    blue: tuple[int, ...]
    glow: float = 0.0  # share of a blurred copy that is added as light
    corners: float = 0.0  # how much darker the corners get


LOOKS = {
    "warm": Look(1.15, (12, 90, 160, 216, 255), (4, 68, 132, 192, 245), (0, 42, 92, 146, 205)),
    "cold": Look(0.85, (0, 46, 104, 164, 225), (6, 66, 130, 192, 246), (38, 98, 160, 214, 255)),
    "faded": Look(
        0.55, (62, 104, 148, 190, 226), (58, 102, 146, 188, 222), (70, 108, 146, 182, 210)
    ),
    "vintage": Look(
        0.7, (34, 90, 158, 210, 242), (18, 68, 134, 190, 226), (42, 72, 108, 148, 182), corners=0.6
    ),
    "noir": Look(
        0.0, (0, 26, 118, 218, 255), (0, 26, 118, 218, 255), (0, 26, 118, 218, 255), corners=0.5
    ),
    "vivid": Look(2.0, (0, 48, 132, 208, 255), (0, 48, 132, 208, 255), (0, 48, 132, 208, 255)),
    "dream": Look(
        0.9, (44, 106, 164, 212, 255), (32, 88, 146, 200, 245), (56, 114, 168, 212, 255), glow=0.35
    ),
    "cyber": Look(
        1.7, (44, 66, 150, 230, 255), (0, 22, 82, 186, 255), (84, 138, 190, 236, 255), corners=0.3
    ),
}  # fmt: skip


@operation("colour", name=Choice(tuple(LOOKS)), strength=Real(0.6, 1.0, 0.0, 1.0))
def filter_app(image: Image.Image, name: str, strength: float) -> Step:
    """Look of a photo app (warm, cold, faded, vintage, noir, vivid, dream or cyber)."""
    look, original = LOOKS[name], to_pixels(image)
    pixels = saturate(original, look.saturation)
    curves = [np.interp(np.arange(256), KNOTS, look[channel]) for channel in (1, 2, 3)]
    pixels = cv2.LUT(pixels, np.rint(np.stack(curves, 1)).astype(np.uint8).reshape(1, 256, 3))
    if look.glow:
        light = smooth(pixels, 0.02 * min(image.size))
        pixels = cv2.addWeighted(
            pixels, 1, cv2.multiply(light, pixels, scale=1 / 255), look.glow, 0
        )
    if look.corners:
        pixels = darken_corners(pixels, look.corners, 0.35)
    return Step(to_image(cv2.addWeighted(pixels, strength, original, 1 - strength, 0)))


@operation(
    "quality",
    cells=Whole(60, 130, 4, 1024),
    angle=Real(0.0, 90.0, -180.0, 180.0),
    ink=Choice(("black", "colour")),
)
def halftone(image: Image.Image, cells: int, angle: float, ink: str) -> Step:
    """Newspaper dots, so many along the shorter side, in black or in three printing colours."""
    period = max(2.5, min(image.size) / cells)
    if ink == "black":
        dots = _dots(np.asarray(image.convert("L")), period, angle)
        return Step(to_image(dots).convert("RGB"))
    return Step(to_image(_colour_dots(to_pixels(image), period, angle)))


@operation(
    "quality",
    dots=Whole(90, 160, 8, 1024),
    paper=Colour(((255, 255, 255), (246, 238, 220), (226, 220, 206), (236, 240, 232))),
    ink=Real(0.08, 0.3, 0.0, 0.8),
    blur=Real(0.001, 0.004, 0.0, 0.05),
    seed=SEED,
)
def print_scan(
    image: Image.Image, dots: int, paper: tuple, ink: float, blur: float, seed: int
) -> Step:
    """Print and scan: fine colour dots, the paper's colour, pale ink, a little blur and grain.

    dots: along the shorter side. ink: how bright black gets, 0..1. blur: a share of the shorter
    side, besides a third of a dot that runs out in the paper.
    """
    short = min(image.size)
    period = max(2.5, short / dots)
    printed = _colour_dots(to_pixels(image), period, 15.0)
    printed = smooth(printed, math.hypot(0.35 * period, blur * short))
    share = ink + (1 - ink) * np.linspace(0, 1, 256)[:, None]
    table = np.rint(share * np.asarray(paper)).astype(np.uint8).reshape(1, 256, 3)
    half = -(-image.height // 2), -(-image.width // 2)
    grain = 5 * np.random.default_rng(seed).standard_normal(half, np.float32)
    grain = cv2.resize(grain, image.size, interpolation=cv2.INTER_LINEAR)
    grain = cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB)
    return Step(to_image(cv2.add(cv2.LUT(printed, table), grain, dtype=cv2.CV_8U)))


@operation("quality", period=Real(0.006, 0.02, 0.001, 0.2), strength=Real(0.3, 0.8, 0.0, 1.0))
def scanlines(image: Image.Image, period: float, strength: float) -> Step:
    """Dark lines of an old screen; their distance is a share of the shorter side (2 px or more)."""
    length = max(2.0, period * min(image.size))
    pixels = to_pixels(image).copy()
    dark = (np.arange(image.height) / length) % 1.0 >= 0.5
    table = np.rint(np.arange(256) * (1 - strength)).astype(np.uint8)
    if dark.any():
        pixels[dark] = cv2.LUT(pixels[dark], table)
    return Step(to_image(pixels))


@operation(
    "quality",
    kind=Choice(("outline", "sketch", "emboss")),
    width=Real(0.001, 0.005, 0.0, 0.05),
)
def edges(image: Image.Image, kind: str, width: float) -> Step:
    """Leave only outlines: dark lines on white, a pencil sketch, or a relief in gray.

    width: blur before the outlines are sought, share of the shorter side; more gives fewer lines.
    """
    gray, sigma = np.asarray(image.convert("L")), width * min(image.size)
    if kind == "sketch":
        # "Dodging": divide by the surroundings, so that only what is darker than them stays.
        shade = cv2.divide(gray, smooth(gray, 1 + 4 * sigma), scale=255)
        table = 255 * (np.arange(256) / 255) ** 3
        return _gray(cv2.LUT(shade, table.astype(np.uint8)))
    soft = smooth(gray, sigma)
    if kind == "emboss":
        relief = np.array([[-1, -1, 0], [-1, 0, 1], [0, 1, 1]], np.float32)
        relief *= 0.7 + 0.7 * sigma  # blur flattens the slopes
        return _gray(cv2.filter2D(soft, -1, relief, delta=128))
    slope = cv2.addWeighted(
        cv2.convertScaleAbs(cv2.Sobel(soft, cv2.CV_16S, 1, 0)), 0.5,
        cv2.convertScaleAbs(cv2.Sobel(soft, cv2.CV_16S, 0, 1)), 0.5, 0,
    )  # fmt: skip
    gain = min(20.0, 60 / max(cv2.mean(slope)[0], 1e-3))  # flat pictures get lines too
    return _gray(cv2.convertScaleAbs(cv2.addWeighted(slope, -gain, slope, 0, 255)))


@operation("quality", levels=Whole(3, 8, 2, 32), lines=Real(0.3, 1.0, 0.0, 1.0))
def cartoon(image: Image.Image, levels: int, lines: float) -> Step:
    """Flat strong colours of a few brightness levels inside dark contours."""
    pixels = to_pixels(image)
    scale = min(1.0, 256 / min(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    flat = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    for _ in range(3):
        flat = cv2.medianBlur(flat, 5)
    flat = saturate(cv2.resize(flat, image.size, interpolation=cv2.INTER_LINEAR), 1.5)
    coded = cv2.cvtColor(flat, cv2.COLOR_RGB2YCrCb)
    step = 255 / levels
    table = np.clip((np.floor(np.arange(256) / step) + 0.5) * step, 0, 255)
    coded[..., 0] = cv2.LUT(coded[..., 0], table.astype(np.uint8))
    flat = cv2.cvtColor(coded, cv2.COLOR_YCrCb2RGB)
    window = max(3, 2 * round(0.012 * min(image.size)) + 1)
    gray = smooth(np.asarray(image.convert("L")), 0.003 * min(image.size))
    contour = cv2.adaptiveThreshold(
        gray, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, window, 9 - 5 * lines
    )
    contour = smooth(contour, 0.7)  # no stairs
    return Step(
        to_image(cv2.multiply(flat, cv2.cvtColor(contour, cv2.COLOR_GRAY2RGB), scale=1 / 255))
    )


@operation("quality", radius=Real(0.006, 0.02, 0.0, 0.05))
def oil(image: Image.Image, radius: float) -> Step:
    """Oil paint: each pixel takes the mean of its calmest corner square (Kuwahara et al. 1976).

    radius: side of the four squares around a pixel, share of the shorter side.
    """
    pixels, side = to_pixels(image), max(1, round(radius * min(image.size)))
    gray = np.asarray(image.convert("L"))
    mean = cv2.blur(pixels, (side + 1, side + 1))
    level = cv2.blur(gray.astype(np.float32), (side + 1, side + 1))
    spread = cv2.sqrBoxFilter(gray, cv2.CV_32F, (side + 1, side + 1)) - level * level
    # The squares' centres lie half a side away in both directions.
    reach, best, painted = (side + 1) // 2, None, None
    wide = [cv2.copyMakeBorder(a, *[reach] * 4, cv2.BORDER_REFLECT) for a in (mean, spread)]
    for y in (0, 2 * reach):
        for x in (0, 2 * reach):
            part = np.s_[y : y + image.height, x : x + image.width]
            colour, unrest = wide[0][part], wide[1][part]
            if best is None:
                best, painted = unrest.copy(), colour.copy()
                continue
            better = cv2.compare(unrest, best, cv2.CMP_LT)
            cv2.copyTo(colour, better, painted)
            cv2.min(unrest, best, best)
    return Step(to_image(painted))


@operation("quality", cells=Whole(25, 60, 4, 512), seed=SEED)
def mosaic_glass(image: Image.Image, cells: int, seed: int) -> Step:
    """Stained glass: irregular cells of one colour with dark lead between them."""
    rng, (width, height) = np.random.default_rng(seed), image.size
    side = max(4.0, min(image.size) / cells)  # px
    y, x = np.mgrid[: math.ceil(height / side), : math.ceil(width / side)] + 0.5
    x, y = ((v + rng.uniform(-0.45, 0.45, v.shape)) * side for v in (x, y))
    free = np.full((height, width), 255, np.uint8)
    free[y.astype(int).clip(0, height - 1), x.astype(int).clip(0, width - 1)] = 0
    _, nearest = cv2.distanceTransformWithLabels(
        free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )  # (H, W) int32, number of the nearest cell centre from 1 on
    flat, pixels = nearest.ravel(), to_pixels(image).reshape(-1, 3)
    area = np.maximum(np.bincount(flat), 1)
    colours = np.stack([np.bincount(flat, pixels[:, c]) / area for c in range(3)], 1)
    colours *= rng.uniform(0.88, 1.12, (len(area), 1))  # panes are never alike
    glass = np.take(np.clip(colours, 0, 255).astype(np.uint8), nearest, axis=0)
    lead = np.zeros((height, width), np.uint8)
    lead[1:] = nearest[1:] != nearest[:-1]
    lead[:, 1:] |= nearest[:, 1:] != nearest[:, :-1]
    lead = cv2.dilate(lead * np.uint8(225), np.ones([max(1, round(0.07 * side))] * 2, np.uint8))
    return Step(to_image(cv2.subtract(glass, cv2.cvtColor(lead, cv2.COLOR_GRAY2RGB))))


def _gray(pixels: np.ndarray) -> Step:
    return Step(to_image(pixels).convert("RGB"))


def _screen(shape: tuple[int, int], period: float, angle: float) -> np.ndarray:
    """Threshold wave (H, W) float32, -1..1: dots in squares of `period` px, turned by degrees.

    cos u + cos v with u, v along the turned axes; as cosines of sums it is a product of two
    narrow matrices, which is much faster than a cosine per pixel.
    """
    left, right = [], []
    turn = math.radians(angle)
    for along in (turn, turn + math.pi / 2):
        x = np.arange(shape[1]) * (2 * math.pi * math.cos(along) / period)
        y = np.arange(shape[0]) * (2 * math.pi * math.sin(along) / period)
        left += [np.cos(y), -np.sin(y)]
        right += [np.cos(x), np.sin(x)]
    return np.stack(left, 1).astype(np.float32) @ (np.stack(right) / 2).astype(np.float32)


def _dots(channel: np.ndarray, period: float, angle: float) -> np.ndarray:
    """One channel (H, W) uint8 as ink dots (0) on white (255) whose area is what is missing."""
    # The wave's quantiles as thresholds make the inked area follow the tone.
    wave = np.sort(_screen((64, 64), 64.0, 0.0).ravel())
    thresholds = np.quantile(wave, np.linspace(0, 1, 256)).astype(np.float32)
    thresholds[0], thresholds[-1] = -3, 3  # plain black and white
    lit = cv2.subtract(cv2.LUT(channel, thresholds), _screen(channel.shape, period, angle))
    slope = 255 * max(1.0, 0.25 * period)  # dots have soft rims about a pixel wide
    return cv2.add(cv2.multiply(lit, slope), 127.5, dtype=cv2.CV_8U)


def _colour_dots(pixels: np.ndarray, period: float, angle: float) -> np.ndarray:
    """Dots of cyan, magenta and yellow ink (they take red, green, blue away) at their angles."""
    turns = (15, 75, 0)  # degrees; printers turn the screens apart to avoid moire
    channels = [_dots(pixels[..., i].copy(), period, angle + turn) for i, turn in enumerate(turns)]
    return cv2.merge(channels)
