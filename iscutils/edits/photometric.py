"""Edits of colour and tone; the pixels stay where they are."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from iscutils.edits.parameters import Choice, Real, Whole
from iscutils.edits.record import Step
from iscutils.edits.registry import operation

# OpenCV colour maps with enough contrast to keep a picture recognisable.
COLOUR_MAPS = ("autumn", "bone", "cool", "hot", "jet", "ocean", "pink", "spring", "viridis")


@operation(
    "colour",
    brightness=Real(0.5, 1.5, 0.05, 3.0),
    contrast=Real(0.5, 1.5, 0.05, 3.0),
    saturation=Real(0.3, 1.9, 0.0, 5.0),
    hue=Real(-0.15, 0.15, -0.5, 0.5),
)
def jitter(
    image: Image.Image, brightness: float, contrast: float, saturation: float, hue: float
) -> Step:
    """Change brightness, contrast, saturation (factors, 1 = none) and hue (turns, 0 = none)."""
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    image = ImageEnhance.Color(image).enhance(saturation)
    turn = round(hue * 256) % 256
    if turn:
        hsv = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(turn)  # wraps around, as hue does
        image = Image.fromarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))
    return Step(image)


@operation("colour")
def gray(image: Image.Image) -> Step:
    """Drop the colour (ITU-R 601 luminance in three equal channels)."""
    return Step(image.convert("L").convert("RGB"))


@operation("colour")
def invert(image: Image.Image) -> Step:
    """Negative: every channel becomes 255 minus itself."""
    return Step(ImageOps.invert(image))


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


@operation("colour", order=Choice(("rbg", "grb", "gbr", "brg", "bgr")))
def channel_shuffle(image: Image.Image, order: str) -> Step:
    """Exchange the colour channels."""
    bands = dict(zip("rgb", image.split(), strict=True))
    return Step(Image.merge("RGB", [bands[name] for name in order]))


@operation("colour", exponent=Real(0.4, 2.5, 0.1, 10.0, log=True))
def gamma(image: Image.Image, exponent: float) -> Step:
    """Raise tones to a power: below 1 brightens the shadows, above 1 darkens."""
    table = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(int)
    return Step(image.point(list(table) * 3))


@operation("colour", name=Choice(COLOUR_MAPS))
def colour_map(image: Image.Image, name: str) -> Step:
    """Paint the luminance with a false-colour scale."""
    luminance = np.asarray(image.convert("L"))
    painted = cv2.applyColorMap(luminance, getattr(cv2, f"COLORMAP_{name.upper()}"))  # BGR
    return Step(Image.fromarray(painted[..., ::-1].copy()))


@operation("colour", dark=Real(0.0, 1.0, 0.0, 1.0), light=Real(0.0, 1.0, 0.0, 1.0))
def duotone(image: Image.Image, dark: float, light: float) -> Step:
    """Map shadows to one hue and lights to another (hues in turns, 0 = red)."""
    shadow = np.array(colorsys.hsv_to_rgb(dark, 0.8, 0.25))
    high = np.array(colorsys.hsv_to_rgb(light, 0.35, 1.0))
    share = np.linspace(0, 1, 256)[:, None]
    table = np.rint(255 * (shadow + share * (high - shadow))).astype(np.uint8)  # (256, 3)
    return Step(Image.fromarray(table[np.asarray(image.convert("L"))]))
