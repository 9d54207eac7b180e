"""Edits that lose detail: blur, compression, noise, pixels; geometry stays."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
from PIL import Image, ImageFilter

from iscutils.edits.parameters import SEED, Choice, Real, Whole
from iscutils.edits.record import Step
from iscutils.edits.registry import operation


@operation("quality", radius=Real(0.004, 0.02, 0.0, 0.1))
def blur(image: Image.Image, radius: float) -> Step:
    """Gaussian blur; the radius (standard deviation) is a share of the shorter side."""
    return Step(image.filter(ImageFilter.GaussianBlur(radius * min(image.size))))


@operation("quality", length=Real(0.02, 0.06, 0.0, 0.2), angle=Real(0.0, 180.0, -180.0, 180.0))
def motion_blur(image: Image.Image, length: float, angle: float) -> Step:
    """Smear along a line; its length is a share of the shorter side, its angle in degrees."""
    half = max(1, min(40, round(length * min(image.size) / 2)))  # px; beyond 40 it gets slow
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    dx, dy = half * math.cos(math.radians(angle)), half * math.sin(math.radians(angle))
    ends = (round(half - dx), round(half + dy)), (round(half + dx), round(half - dy))
    cv2.line(kernel, *ends, 1.0)
    return Step(Image.fromarray(cv2.filter2D(np.asarray(image), -1, kernel / kernel.sum())))


@operation("quality", factor=Real(3.0, 15.0, 0.0, 40.0))
def sharpen(image: Image.Image, factor: float) -> Step:
    """Exaggerate detail: the difference to a slightly blurred copy, times the factor, is added."""
    pixels = np.asarray(image)
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    return Step(Image.fromarray(cv2.addWeighted(pixels, 1 + factor, smooth, -factor, 0)))


@operation("quality", quality=Whole(3, 30, 1, 95))
def jpeg(image: Image.Image, quality: int) -> Step:
    """Compress as JPEG of low quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Step(Image.open(buffer).convert("RGB"))


@operation(
    "quality",
    amount=Real(0.04, 0.15, 0.0, 0.5),
    kind=Choice(("gaussian", "salt_pepper")),
    seed=SEED,
)
def noise(image: Image.Image, amount: float, kind: str, seed: int) -> Step:
    """Gaussian noise (standard deviation of 0..1 values), or that share of black and white dots."""
    rng = np.random.default_rng(seed)
    pixels = np.asarray(image)
    if kind == "gaussian":
        grain = rng.standard_normal(pixels.shape, np.float32)
        grain *= 255 * amount
        return Step(Image.fromarray(cv2.add(pixels, grain, dtype=cv2.CV_8U)))
    draw = rng.random(pixels.shape[:2], np.float32)[..., None]
    pixels = np.where(draw < amount / 2, np.uint8(0), pixels)
    return Step(Image.fromarray(np.where(draw > 1 - amount / 2, np.uint8(255), pixels)))


@operation("quality", cells=Whole(24, 72, 4, 512))
def pixelate(image: Image.Image, cells: int) -> Step:
    """Coarse square pixels, so many along the shorter side."""
    coarse = _cells(image, cells)
    return Step(coarse.resize(image.size, Image.Resampling.NEAREST))


@operation("quality", cells=Whole(28, 64, 8, 256))
def bricks(image: Image.Image, cells: int) -> Step:
    """Rebuild the picture from toy bricks with round studs ("legofy" of ISC phase 2)."""
    coarse = np.asarray(_cells(image, cells)).astype(np.float32)
    tile = max(4, min(image.size) // cells)
    y, x = (np.mgrid[:tile, :tile] + 0.5) / tile - 0.5
    distance = np.hypot(x, y)
    shade = np.where(distance < 0.32, 1.08, 0.95) + 0.25 * np.where(
        np.abs(distance - 0.32) < 0.06, -(x + y), 0
    )
    blocks = np.repeat(np.repeat(coarse, tile, 0), tile, 1)
    shading = np.tile(shade.astype(np.float32), coarse.shape[:2])[..., None]
    built = Image.fromarray(np.clip(blocks * shading, 0, 255).astype(np.uint8))
    return Step(built.resize(image.size, Image.Resampling.BILINEAR))


@operation("quality", share=Real(0.1, 0.5, 0.0, 0.9), seed=SEED)
def shuffle_pixels(image: Image.Image, share: float, seed: int) -> Step:
    """Exchange a share of the pixels among each other; they count as hidden."""
    pixels = np.asarray(image).reshape(-1, 3).copy()  # (H * W, 3)
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(rng.random(len(pixels), np.float32) < share)
    pixels[chosen] = pixels[rng.permutation(chosen)]
    hidden = len(chosen) / len(pixels)
    return Step(Image.fromarray(pixels.reshape(image.height, image.width, 3)), hidden=hidden)


def _cells(image: Image.Image, cells: int) -> Image.Image:
    """Mean colours of square cells, `cells` of them along the shorter side."""
    side = max(1.0, min(image.size) / cells)
    size = (max(1, round(image.width / side)), max(1, round(image.height / side)))
    return image.resize(size, Image.Resampling.BOX)
