"""Edits of colour and tone; the pixels stay where they are.

Most of them are lookup tables over 0..255, which OpenCV applies in a fraction of a millisecond.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from PIL import Image, ImageOps

from iscutils.edits.parameters import Choice, Colour, Real, Whole
from iscutils.edits.pixels import to_image, to_pixels
from iscutils.edits.record import Step
from iscutils.edits.registry import operation

CHANNELS = ("r", "g", "b", "rg", "rb", "gb", "rgb")
# OpenCV colour maps with enough contrast to keep a picture recognisable.
COLOUR_MAPS = ("autumn", "bone", "cool", "hot", "jet", "ocean", "pink", "spring", "viridis")
# The sepia matrix that most picture programs share: rows are red, green, blue of the result.
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
# Far enough apart that every pair of them shows the picture.
DARKS = (
    (0, 0, 0),
    (20, 24, 82),
    (70, 8, 84),
    (6, 62, 58),
    (96, 14, 28),
    (12, 52, 100),
    (60, 36, 10),
)
LIGHTS = (
    (255, 255, 255),
    (255, 226, 130),
    (150, 246, 190),
    (255, 176, 196),
    (140, 232, 255),
    (255, 186, 110),
    (222, 206, 255),
)
EXPONENT = Real(1 / 3, 3.0, 0.1, 10.0, log=True)
VALUES = np.arange(256)


@operation(
    "colour",
    brightness=Real(0.5, 1.5, 0.0, 5.0),
    contrast=Real(0.5, 1.5, 0.0, 6.0),
    saturation=Real(0.3, 1.9, 0.0, 10.0),
    hue=Real(-0.15, 0.15, -0.5, 0.5),
)
def jitter(
    image: Image.Image, brightness: float, contrast: float, saturation: float, hue: float
) -> Step:
    """Change brightness, contrast, saturation (factors, 1 = none) and hue (turns, 0 = none)."""
    pixels, table = to_pixels(image), scale_table(brightness)
    if contrast != 1:  # one pass for both; every second pixel tells the mean gray well enough
        sample = cv2.LUT(np.ascontiguousarray(pixels[::2, ::2]), table)
        table = scale_table(contrast, _mean_gray(sample))[table]
    pixels = saturate(cv2.LUT(pixels, table), saturation)
    return Step(to_image(_turned(pixels, hue)))


@operation("colour", factor=Real(0.3, 1.8, 0.01, 5.0))
def brightness(image: Image.Image, factor: float) -> Step:
    """Multiply all values by a factor: below 1 darkens, above 1 brightens."""
    return _looked_up(image, scale_table(factor))


@operation("colour", factor=Real(0.3, 2.5, 0.01, 5.0))
def contrast(image: Image.Image, factor: float) -> Step:
    """Move all values away from the mean gray (factor above 1) or towards it (below 1)."""
    return Step(to_image(_contrasted(to_pixels(image), factor)))


@operation("colour", factor=Real(0.0, 5.0, 0.0, 10.0))
def saturation(image: Image.Image, factor: float) -> Step:
    """Make colours paler (factor below 1, 0 is gray) or stronger (above 1)."""
    return Step(to_image(saturate(to_pixels(image), factor)))


@operation("colour", turn=Real(-0.5, 0.5, -0.5, 0.5))
def hue(image: Image.Image, turn: float) -> Step:
    """Turn all hues by a share of the colour circle (1/3 makes red green)."""
    return Step(to_image(_turned(to_pixels(image), turn)))


@operation("colour", factor=Real(0.04, 0.3, 0.005, 1.0, log=True))
def darken(image: Image.Image, factor: float) -> Step:
    """Leave only a small share of the light, as in a failed exposure."""
    return _looked_up(image, scale_table(factor))


@operation("colour")
def gray(image: Image.Image) -> Step:
    """Drop the colour (ITU-R 601 luminance in three equal channels)."""
    return Step(image.convert("L").convert("RGB"))


@operation("colour")
def invert(image: Image.Image) -> Step:
    """Negative: every channel becomes 255 minus itself."""
    return Step(ImageOps.invert(image))


@operation("colour", channels=Choice(CHANNELS[:-1], CHANNELS))
def channel_invert(image: Image.Image, channels: str) -> Step:
    """Negative of some of the colour channels."""
    columns = [255 - VALUES if name in channels else VALUES for name in "rgb"]
    return _looked_up(image, np.stack(columns, 1))


@operation("colour", bits=Whole(1, 3, 1, 8))
def posterise(image: Image.Image, bits: int) -> Step:
    """Keep only the highest bits of every channel."""
    return Step(ImageOps.posterize(image, bits))


@operation("colour", threshold=Whole(64, 192, 0, 255))
def solarise(image: Image.Image, threshold: int) -> Step:
    """Invert the channel values at or above a threshold."""
    return Step(ImageOps.solarize(image, threshold))


@operation("colour")
def equalise(image: Image.Image) -> Step:
    """Spread each channel's histogram evenly."""
    return Step(ImageOps.equalize(image))


@operation("colour", cutoff=Real(0.0, 10.0, 0.0, 45.0))
def autocontrast(image: Image.Image, cutoff: float) -> Step:
    """Stretch each channel to 0..255, ignoring so many percent of pixels at either end."""
    return Step(ImageOps.autocontrast(image, cutoff))


@operation("colour", order=Choice(("rbg", "grb", "gbr", "brg", "bgr")))
def channel_shuffle(image: Image.Image, order: str) -> Step:
    """Exchange the colour channels."""
    bands = dict(zip("rgb", image.split(), strict=True))
    return Step(Image.merge("RGB", [bands[name] for name in order]))


@operation("colour", exponent=Real(0.4, 2.5, 0.1, 10.0, log=True))
def gamma(image: Image.Image, exponent: float) -> Step:
    """Raise tones to a power: below 1 brightens the shadows, above 1 darkens."""
    return _looked_up(image, _power_table(exponent))


@operation("colour", red=EXPONENT, green=EXPONENT, blue=EXPONENT)
def channel_gamma(image: Image.Image, red: float, green: float, blue: float) -> Step:
    """Raise each colour channel to a power of its own: a strong colour cast."""
    return _looked_up(image, np.stack([_power_table(e) for e in (red, green, blue)], 1))


@operation("colour", warmth=Real(-0.4, 0.4, -0.9, 0.9))
def temperature(image: Image.Image, warmth: float) -> Step:
    """Wrong white balance: red times 1 + warmth, blue times 1 - warmth; negative is cold."""
    return _looked_up(image, np.stack([scale_table(1 + w) for w in (warmth, 0, -warmth)], 1))


@operation("colour", strength=Real(0.5, 1.0, 0.0, 1.0))
def sepia(image: Image.Image, strength: float) -> Step:
    """Brown tones of an old print, mixed with the picture by the strength."""
    matrix = strength * SEPIA + (1 - strength) * np.eye(3)
    return Step(to_image(cv2.transform(to_pixels(image), matrix)))


@operation("colour", name=Choice(COLOUR_MAPS))
def colour_map(image: Image.Image, name: str) -> Step:
    """Paint the luminance with a false-colour scale."""
    number = getattr(cv2, f"COLORMAP_{name.upper()}")
    scale = cv2.applyColorMap(VALUES.astype(np.uint8)[None], number)  # (1, 256, 3) BGR
    return Step(to_image(_painted(image, scale[0, :, ::-1])))


@operation("colour", dark=Real(0.0, 1.0, 0.0, 1.0), light=Real(0.0, 1.0, 0.0, 1.0))
def duotone(image: Image.Image, dark: float, light: float) -> Step:
    """Map shadows to one hue and lights to another (hues in turns, 0 = red)."""
    shadow = 255 * np.array(colorsys.hsv_to_rgb(dark, 0.8, 0.25))
    high = 255 * np.array(colorsys.hsv_to_rgb(light, 0.35, 1.0))
    return Step(to_image(_painted(image, _ramp(shadow, high))))


@operation("colour", dark=Colour(DARKS), light=Colour(LIGHTS), strength=Real(0.5, 1.0, 0.0, 1.0))
def two_colour(image: Image.Image, dark: tuple, light: tuple, strength: float) -> Step:
    """Map the luminance to a line between any two colours, mixed in by the strength."""
    painted = _painted(image, _ramp(np.array(dark, float), np.array(light, float)))
    return Step(to_image(_mixed(to_pixels(image), painted, strength)))


@operation("colour", strength=Real(0.5, 0.95, 0.0, 1.0), radius=Real(0.1, 0.6, 0.0, 0.95))
def vignette(image: Image.Image, strength: float, radius: float) -> Step:
    """Darken towards the corners, from a radius (share of the half diagonal) on."""
    return Step(to_image(darken_corners(to_pixels(image), strength, radius)))


def scale_table(factor: float, middle: float = 0.0) -> np.ndarray:
    """Table (256,) uint8 of middle + factor x (value - middle), cut to 0..255.

    Single precision and rounding down: the very values of Pillow's ImageEnhance.
    """
    moved = np.float32(middle) + np.float32(factor) * (VALUES.astype(np.float32) - middle)
    return np.clip(moved, 0, 255).astype(np.uint8)


def saturate(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Pixels (H, W, 3) uint8 moved away from their gray by a factor; 0 is gray, 1 no change."""
    if factor == 1:
        return pixels
    # Pillow's gray differs by one level now and then, five times that at factor 6.
    luminance = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    # Minus one half: OpenCV rounds to the nearest value, Pillow's enhancement rounds down.
    return cv2.addWeighted(pixels, factor, luminance, 1 - factor, -0.49 if factor else 0)


def darken_corners(pixels: np.ndarray, strength: float, radius: float) -> np.ndarray:
    """Pixels (H, W, 3) uint8 times a factor: 1 up to the radius, 1 - strength in the corners.

    The distance is counted in half diagonals, so the bright part is an ellipse.
    """
    height, width = pixels.shape[:2]
    x = (2 * (np.arange(width, dtype=np.float32) + 0.5) / width - 1) ** 2 / 2
    y = (2 * (np.arange(height, dtype=np.float32) + 0.5) / height - 1) ** 2 / 2
    outside = (y[:, None] + x - radius**2) / (1 - radius**2)  # of the squared distance
    mask = (255 - 255 * strength * np.clip(outside, 0, 1)).astype(np.uint8)
    return cv2.multiply(pixels, cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB), scale=1 / 255)


def _mixed(pixels: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return cv2.addWeighted(other, share, pixels, 1 - share, 0)


def _contrasted(pixels: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return pixels
    return cv2.LUT(pixels, scale_table(factor, _mean_gray(pixels)))


def _mean_gray(pixels: np.ndarray) -> int:
    """What contrast is stretched about, as in Pillow: the mean luminance, rounded."""
    return int(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)


def _turned(pixels: np.ndarray, turn: float) -> np.ndarray:
    steps = round(turn * 256) % 256
    if not steps:
        return pixels
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(steps)  # wraps around, as hue does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _power_table(exponent: float) -> np.ndarray:
    return np.rint(255 * (VALUES / 255) ** exponent)


def _ramp(dark: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Table (256, 3) from one colour to another."""
    return np.rint(dark + (light - dark) * (VALUES / 255)[:, None])


def _looked_up(image: Image.Image, table: np.ndarray) -> Step:
    """Every value through a table (256,), or (256, 3) with a column for each channel."""
    table = table.astype(np.uint8).reshape(1, 256, -1)
    return Step(to_image(cv2.LUT(to_pixels(image), table)))


def _painted(image: Image.Image, table: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) whose colour is the row of the table (256, 3) for their luminance."""
    luminance = to_pixels(image.convert("L").convert("RGB"))
    return cv2.LUT(luminance, np.ascontiguousarray(table, np.uint8).reshape(1, 256, 3))
