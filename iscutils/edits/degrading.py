"""Edits that lose detail: blur, compression, noise, pixels, few colours; geometry stays."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from iscutils.edits.parameters import SEED, Choice, Real, Whole
from iscutils.edits.pixels import to_image, to_pixels
from iscutils.edits.record import Step, shift
from iscutils.edits.registry import operation

WEBP_SIDE = 16_383  # px; the format knows no longer sides
# Order in which an 8 x 8 block fills up, 0..63 (Bayer 1973): doubled from a single 0.
BAYER = np.zeros((1, 1), int)
for _ in range(3):
    BAYER = np.block([[4 * BAYER, 4 * BAYER + 2], [4 * BAYER + 3, 4 * BAYER + 1]])


@operation("quality", radius=Real(0.004, 0.02, 0.0, 0.1))
def blur(image: Image.Image, radius: float) -> Step:
    """Gaussian blur; the radius (standard deviation) is a share of the shorter side."""
    return Step(to_image(smooth(to_pixels(image), radius * min(image.size))))


@operation("quality", radius=Real(1.0, 5.0, 0.0, 50.0))
def blur_pixels(image: Image.Image, radius: float) -> Step:
    """Gaussian blur with a radius (standard deviation) in pixels, whatever the size."""
    return Step(to_image(smooth(to_pixels(image), radius)))


@operation("quality", pixels=Whole(24, 96, 2, 512))
def lose_resolution(image: Image.Image, pixels: int) -> Step:
    """Shrink the shorter side to so many pixels and enlarge it back, smoothly."""
    small = cv2.resize(to_pixels(image), _coarse_size(image, pixels), interpolation=cv2.INTER_AREA)
    return Step(to_image(cv2.resize(small, image.size, interpolation=cv2.INTER_LINEAR)))


@operation("quality", radius=Real(0.006, 0.03, 0.0, 0.2))
def box_blur(image: Image.Image, radius: float) -> Step:
    """Mean over squares; the radius (half their side) is a share of the shorter side."""
    side = 2 * round(radius * min(image.size)) + 1
    return Step(to_image(cv2.blur(to_pixels(image), (side, side))))


@operation("quality", size=Real(0.01, 0.04, 0.0, 0.1))
def median_blur(image: Image.Image, size: float) -> Step:
    """Median over squares (3 px or more); their side is a share of the picture's shorter side."""
    if size == 0:
        return Step(image)
    pixels, side = to_pixels(image), size * min(image.size)
    half = max(1, round((side - 1) / 2))
    if half <= 2:
        return Step(to_image(cv2.medianBlur(pixels, 2 * half + 1)))
    # Large windows are slow: half of the resolution is enough for what is left after them.
    small = cv2.resize(pixels, _size(pixels, 0.5), interpolation=cv2.INTER_AREA)
    small = cv2.medianBlur(small, min(255, 2 * round((side / 2 - 1) / 2) + 1))
    return Step(to_image(cv2.resize(small, image.size, interpolation=cv2.INTER_LINEAR)))


@operation("quality", radius=Real(0.008, 0.03, 0.0, 0.1))
def defocus(image: Image.Image, radius: float) -> Step:
    """Blur by a disc, as a lens out of focus does; its radius is a share of the shorter side."""
    pixels, radius = to_pixels(image), radius * min(image.size)
    scale = min(1.0, 5 / max(radius, 1.0))  # detail finer than the disc is lost anyway
    if scale < 1:
        pixels = cv2.resize(pixels, _size(pixels, scale), interpolation=cv2.INTER_AREA)
    radius *= scale
    reach = np.arange(-math.ceil(radius), math.ceil(radius) + 1)
    disc = np.clip(radius + 0.5 - np.hypot(reach, reach[:, None]), 0, 1)  # soft rim
    pixels = cv2.filter2D(pixels, -1, (disc / disc.sum()).astype(np.float32))
    if scale < 1:
        pixels = cv2.resize(pixels, image.size, interpolation=cv2.INTER_LINEAR)
    return Step(to_image(pixels))


@operation("quality", length=Real(0.02, 0.06, 0.0, 0.2), angle=Real(0.0, 180.0, -180.0, 180.0))
def motion_blur(image: Image.Image, length: float, angle: float) -> Step:
    """Smear along a line; its length is a share of the shorter side, its angle in degrees."""
    pixels = length * min(image.size)
    x, y = pixels * math.cos(math.radians(angle)), -pixels * math.sin(math.radians(angle))
    return Step(_smeared(image, lambda share: shift(share * x, share * y), pixels))


@operation("quality", strength=Real(0.05, 0.2, 0.0, 0.6))
def zoom_blur(image: Image.Image, strength: float) -> Step:
    """Smear away from the centre, as zooming in while the shutter is open; a share of the way."""
    middle = np.array(image.size) / 2

    def zoom(share: float) -> np.ndarray:
        scale = math.exp(share * strength)
        return shift(*middle) @ np.diag([scale, scale, 1.0]) @ shift(*-middle)

    return Step(_smeared(image, zoom, strength * math.hypot(*middle)))


@operation("quality", factor=Real(3.0, 15.0, 0.0, 40.0))
def sharpen(image: Image.Image, factor: float) -> Step:
    """Exaggerate detail: the difference to a slightly blurred copy, times the factor, is added."""
    pixels = to_pixels(image)
    blurred = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    return Step(to_image(cv2.addWeighted(pixels, 1 + factor, blurred, -factor, 0)))


@operation("quality", strength=Choice(("normal", "more")))
def edge_enhance(image: Image.Image, strength: str) -> Step:
    """Strengthen outlines by the 3 x 3 filter of picture programs."""
    kernel = -np.ones((3, 3), np.float32)
    kernel[1, 1] = 10 if strength == "normal" else 9  # divided by their sum, 2 or 1
    return Step(to_image(cv2.filter2D(to_pixels(image), -1, kernel / kernel.sum())))


@operation("quality", quality=Whole(3, 30, 0, 100))
def jpeg(image: Image.Image, quality: int) -> Step:
    """Compress as JPEG of low quality; 0 is the same as 1."""
    return Step(_coded(image, "JPEG", quality=quality))


@operation("quality", quality=Whole(1, 60, 0, 100))
def webp(image: Image.Image, quality: int) -> Step:
    """Compress as WebP of low quality."""
    half = max(image.size) // 2
    if max(image.size) <= WEBP_SIDE:
        return Step(_coded(image, "WEBP", quality=quality, method=0))
    # In two parts; canvases have at most 24,000 px.
    first = (half, image.height) if image.width > image.height else (image.width, half)
    corner = (half, 0) if image.width > image.height else (0, half)
    whole = image.copy()
    for box in ((0, 0, *first), (*corner, *image.size)):
        whole.paste(webp(image.crop(box), quality).image, box)
    return Step(whole)


@operation(
    "quality",
    amount=Real(0.04, 0.15, 0.0, 0.75),
    kind=Choice(("gaussian", "salt_pepper", "speckle", "poisson")),
    seed=SEED,
)
def noise(image: Image.Image, amount: float, kind: str, seed: int) -> Step:
    """Noise of a standard deviation (of 0..1 values), or that share of black and white dots.

    Speckle grows with the value: value x (1 + amount x normal). Poisson is the noise of counted
    light, 1 / amount^2 photons on white, drawn as a normal of variance amount^2 x value.
    """
    rng, pixels = np.random.default_rng(seed), to_pixels(image)
    if kind == "salt_pepper":
        draw, pixels = rng.random(pixels.shape[:2], np.float32), pixels.copy()
        pixels[draw < amount / 2] = 0
        pixels[draw > 1 - amount / 2] = 255
        return Step(to_image(pixels))
    grain = _grain(pixels.shape, rng) * np.float32(255 * amount)
    if kind != "gaussian":
        values = np.arange(256, dtype=np.float32) / 255
        grain *= cv2.LUT(pixels, values if kind == "speckle" else np.sqrt(values))
    return Step(to_image(cv2.add(pixels, grain, dtype=cv2.CV_8U)))


@lru_cache(maxsize=1)
def _normals() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(2**21, np.float32)


def _grain(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers of a shape: a table read from a random place, in a random direction.

    Drawing half a million numbers takes six times as long as all else that noise needs.
    """
    table, number = _normals(), math.prod(shape)
    start = int(rng.integers(len(table)))
    table = table[::-1] if rng.random() < 0.5 else table
    repeats = -(-(start + number) // len(table))
    tiled = table if repeats == 1 else np.tile(table, repeats)
    return tiled[start : start + number].reshape(shape)


@operation("quality", colours=Whole(4, 32, 2, 256))
def palette(image: Image.Image, colours: int) -> Step:
    """Reduce to a few colours by median cut, without dithering."""
    sample = image.resize([min(side, 128) for side in image.size], Image.Resampling.NEAREST)
    chosen = sample.quantize(colours, Image.Quantize.MEDIANCUT)
    return Step(image.quantize(palette=chosen, dither=Image.Dither.NONE).convert("RGB"))


@operation("quality", levels=Whole(2, 4, 2, 32))
def dither(image: Image.Image, levels: int) -> Step:
    """Few levels per channel, with ordered (Bayer) dots for the tones between them."""
    step = 255 / (levels - 1)
    threshold = ((BAYER + 0.5) / BAYER.size * step).astype(np.uint8)
    repeats = [math.ceil(side / 8) for side in (image.height, image.width)]
    tiled = np.tile(threshold, repeats)[: image.height, : image.width]
    lifted = cv2.add(to_pixels(image), cv2.cvtColor(tiled, cv2.COLOR_GRAY2RGB))
    table = np.rint(np.floor(np.arange(256) / step + 1e-9) * step).astype(np.uint8)
    return Step(to_image(cv2.LUT(lifted, table)))


@operation("quality", cells=Whole(24, 72, 4, 1024))
def pixelate(image: Image.Image, cells: int) -> Step:
    """Coarse square pixels, so many along the shorter side."""
    coarse = _cells(image, cells)
    return Step(coarse.resize(image.size, Image.Resampling.NEAREST))


@operation("quality", cells=Whole(28, 64, 8, 256))
def bricks(image: Image.Image, cells: int) -> Step:
    """Rebuild the picture from toy bricks with round studs ("legofy" of ISC phase 2)."""
    coarse = to_pixels(_cells(image, cells)).astype(np.float32)
    tile = max(4, min(image.size) // cells)
    y, x = (np.mgrid[:tile, :tile] + 0.5) / tile - 0.5
    distance = np.hypot(x, y)
    shade = np.where(distance < 0.32, 1.08, 0.95) + 0.25 * np.where(
        np.abs(distance - 0.32) < 0.06, -(x + y), 0
    )
    blocks = np.repeat(np.repeat(coarse, tile, 0), tile, 1)
    shading = np.tile(shade.astype(np.float32), coarse.shape[:2])[..., None]
    built = to_image(np.clip(blocks * shading, 0, 255).astype(np.uint8))
    return Step(built.resize(image.size, Image.Resampling.BILINEAR))


@operation("quality", share=Real(0.1, 0.5, 0.0, 0.9), seed=SEED)
def shuffle_pixels(image: Image.Image, share: float, seed: int) -> Step:
    """Exchange a share of the pixels among each other; they count as hidden."""
    pixels = to_pixels(image).reshape(-1, 3).copy()  # (H * W, 3)
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(rng.random(len(pixels), np.float32) < share)
    pixels[chosen] = pixels[rng.permutation(chosen)]
    hidden = len(chosen) / len(pixels)
    return Step(to_image(pixels.reshape(image.height, image.width, 3)), hidden=hidden)


def smooth(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W) or (H, W, 3) uint8; sigma (standard deviation) in px.

    Beyond 3 px three box means take its place: as good to the eye, at the same cost for any sigma.
    """
    if sigma < 0.05:  # the neighbours' weight is below exp(-200)
        return pixels
    if sigma <= 3:
        return cv2.GaussianBlur(pixels, (0, 0), sigma)
    # Odd sides whose variances (side^2 - 1) / 12 add up to sigma^2 as nearly as they can.
    ideal = math.sqrt(4 * sigma**2 + 1)
    low = int((ideal - 1) / 2) * 2 + 1
    small = round((3 * (low + 2) ** 2 - 3 * ideal**2) / (4 * (low + 1)))
    for side in [low] * small + [low + 2] * (3 - small):
        pixels = cv2.blur(pixels, (side, side))
    return pixels


def _smeared(image: Image.Image, move: Callable[[float], np.ndarray], length: float) -> Image.Image:
    """Mean of the picture along a path: `move(share)` is the matrix at share -0.5..0.5 of it.

    Each round averages two copies moved by a quarter, an eighth, ... of the path either way, so n
    rounds make 2^n copies; they end when copies (of a path of `length` px) lie half a pixel apart.
    """
    pixels, share = to_pixels(image), 0.25
    while share * length > 0.25 and share > 2**-8:
        copies = []
        for matrix in (move(share), move(-share)):
            matrix = (shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5))[:2]  # OpenCV's coordinates
            copies.append(
                cv2.warpAffine(pixels, matrix, image.size, borderMode=cv2.BORDER_REPLICATE)
            )
        pixels, share = cv2.addWeighted(copies[0], 0.5, copies[1], 0.5, 0), share / 2
    return to_image(pixels)


def _coded(image: Image.Image, form: str, **options: int) -> Image.Image:
    """The picture written in a format and read again."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return Image.open(buffer).convert("RGB")


def _size(pixels: np.ndarray, scale: float) -> tuple[int, int]:
    """(width, height) px of an array times a scale, at least 1."""
    height, width = pixels.shape[:2]
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cells(image: Image.Image, cells: int) -> Image.Image:
    """Mean colours of square cells, `cells` of them along the shorter side."""
    return image.resize(_coarse_size(image, cells), Image.Resampling.BOX)


def _coarse_size(image: Image.Image, cells: int) -> tuple[int, int]:
    """Size with so many px along the shorter side, never larger than the picture."""
    side = max(1.0, min(image.size) / cells)
    return max(1, round(image.width / side)), max(1, round(image.height / side))
