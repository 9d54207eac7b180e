"""Emoji, fonts and screens that come with AugLy, found as files: importing AugLy takes seconds."""

from __future__ import annotations

import importlib.util
import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Legible faces for each script; those that are not installed are left out.
FACES = {
    "latin": (
        "Impact", "Lobster_1.3", "Montserrat-Bold", "OpenSans-Regular", "Pacifico", "Ubuntu-B",
        "PlayfairDisplay-Bold", "IBMPlexMono-Medium", "DancingScript-Regular", "Raleway-Heavy",
        "SourceSansPro-Semibold", "KaushanScript-Regular", "NotoSerif-Regular", "Chunkfive",
    ),
    "cyrillic": ("Impact", "Montserrat-Bold", "OpenSans-Bold", "Ubuntu-R", "NotoSerif-Regular"),
    "greek": ("Impact", "OpenSans-Semibold", "SourceSansPro-Bold", "Ubuntu-B", "NotoSans-Regular"),
    "hebrew": ("NotoSansHebrew-Regular", "NotoSerifHebrew-Regular"),
    "arabic": ("NotoNaskhArabic-Regular", "NotoKufiArabic-Regular", "NotoSansArabic-Regular"),
    "devanagari": ("NotoSansDevanagari-Regular", "NotoSerifDevanagari-Regular"),
    "thai": ("NotoSansThai-Regular", "NotoSerifThai-Regular"),
}  # fmt: skip
LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "cyrillic": "абвгдежзиклмнопрстуфхцчшщыэюяАБВГДЖЗИЛМПФЦЧШЭЮЯ",
    "greek": "αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔΘΛΞΠΣΦΨΩ",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "devanagari": "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह",
    "thai": "กขคงจฉชซญดตถทธนบปผพฟภมยรลวศสหอฮ",
}
SCRIPTS = tuple(FACES)


@lru_cache(maxsize=1)
def _folder() -> Path | None:
    # find_spec reads where the package lies without running it
    spec = importlib.util.find_spec("augly")
    found = spec is not None and spec.submodule_search_locations
    return Path(next(iter(found))) / "assets" if found else None


@lru_cache(maxsize=1)
def emoji_files() -> tuple[Path, ...]:
    """Emoji PNGs of AugLy (Twemoji), sorted; empty when AugLy is not installed."""
    folder = _folder()
    return tuple(sorted(folder.glob("twemojis/*/*.png"))) if folder else ()


def emoji(number: int, side: int) -> Image.Image:
    """Emoji `number` (modulo how many there are) as RGBA of side x side px.

    Without AugLy a drawn face or shape takes its place.
    """
    files = emoji_files()
    picture = _decoded(files[number % len(files)]) if files else _drawn(number)
    return picture.resize((side, side), Image.Resampling.BILINEAR)


@lru_cache(maxsize=1024)
def _decoded(file: Path) -> Image.Image:
    """An emoji file as RGBA, 20 KB each; never changed, only resized copies leave this module."""
    with Image.open(file) as picture:
        return picture.convert("RGBA")


def _drawn(number: int) -> Image.Image:
    """One of four shapes in a colour that the number decides, 128 x 128 RGBA."""
    colour = tuple(int(v) for v in np.random.default_rng(number).integers(60, 256, 3))
    picture = Image.new("RGBA", (128, 128))
    pen = ImageDraw.Draw(picture)
    outline = {"fill": colour, "outline": (0, 0, 0), "width": 4}
    if number % 4 == 0:  # a face
        pen.ellipse((4, 4, 124, 124), **outline)
        pen.ellipse((38, 40, 52, 54), fill=(0, 0, 0))
        pen.ellipse((76, 40, 90, 54), fill=(0, 0, 0))
        pen.arc((32, 48, 96, 100), 20, 160, fill=(0, 0, 0), width=5)
    elif number % 4 == 1:
        pen.regular_polygon((64, 64, 60), 5, fill=colour, outline=(0, 0, 0), width=4)
    elif number % 4 == 2:
        pen.rounded_rectangle((6, 20, 122, 108), 20, **outline)
    else:
        pen.polygon([(64, 4), (124, 120), (4, 120)], **outline)
    return picture


def emblem(number: int, side: int) -> Image.Image:
    """Drawn emblem `number` (modulo 10) as an "L" mask of side x side px: a shape in a shape."""
    size = 2 * side  # drawn twice as large, for smooth edges
    mask, middle = Image.new("L", (size, size)), size / 2
    pen = ImageDraw.Draw(mask)
    outer, inner = (number // 2) % 5, number % 2
    box = (0, 0, size - 1, size - 1)
    if outer == 0:
        pen.ellipse(box, fill=255)
    elif outer == 1:
        pen.rounded_rectangle(box, size // 5, fill=255)
    elif outer == 2:
        pen.polygon(_star(middle, middle, 6, 1.0), fill=255)
    elif outer == 3:
        pen.ellipse(box, outline=255, width=max(1, size // 8))
    else:
        pen.polygon([(0, 0), (size, 0), (size, 0.6 * size), (middle, size), (0, 0.6 * size)], 255)
    hole = 255 if outer == 3 else 0
    if inner:
        pen.polygon(_star(middle, 0.6 * middle, 5, 0.4), fill=hole)
    else:
        pen.polygon(_star(middle, 0.5 * middle, 3, 1.0), fill=hole)
    return mask.resize((side, side), Image.Resampling.BOX)


def _star(middle: float, radius: float, points: int, inner: float) -> list[tuple[float, float]]:
    """Corners of a star around (middle, middle); `inner` is the depth, 1 = a plain polygon."""
    corners = []
    for i in range(2 * points):
        if i % 2 and inner == 1.0:
            continue
        length, angle = radius * (inner if i % 2 else 1.0), math.pi * i / points
        corners.append((middle + length * math.sin(angle), middle - length * math.cos(angle)))
    return corners


def screen_template(style: str) -> tuple[Image.Image, tuple[int, int, int, int]] | None:
    """AugLy's picture of a "web" page or a "mobile" app, and the box x0, y0, x1, y1 px in it.

    The box is where the page shows a photograph. None when AugLy is not installed.
    """
    folder = _folder()
    file = folder / "screenshot_templates" / f"{style}.png" if folder else None
    return _template(file) if file is not None and file.exists() else None


@lru_cache(maxsize=4)
def _template(file: Path) -> tuple[Image.Image, tuple[int, int, int, int]]:
    box = json.loads((file.parent / "bboxes.json").read_text())[file.name]
    with Image.open(file) as picture:
        return picture.convert("RGB"), tuple(int(value) for value in box)


@lru_cache(maxsize=1024)
def _font_file(script: str, face: int) -> Path | None:
    folder = _folder()
    files = [folder / "fonts" / f"{name}.ttf" for name in FACES[script]] if folder else []
    files = [file for file in files if file.exists()]
    return files[face % len(files)] if files else None


@lru_cache(maxsize=256)
def font(script: str, face: int, size: int) -> ImageFont.FreeTypeFont:
    """Font `face` (modulo how many the script has) at `size` px; Pillow's own without AugLy."""
    file = _font_file(script, face)
    return ImageFont.truetype(str(file), size) if file else ImageFont.load_default(size)


def letters(script: str) -> str:
    """Letters that `font(script, ...)` can draw: Latin ones where only Pillow's own is there."""
    return LETTERS[script] if _font_file(script, 0) else LETTERS["latin"]


def words(script: str, rng: np.random.Generator, most: int = 3) -> str:
    """One to `most` made-up words of two to eight letters."""
    alphabet = np.array(list(letters(script)))
    lengths = rng.integers(2, 9, int(rng.integers(1, most + 1)))
    return " ".join("".join(rng.choice(alphabet, length)) for length in lengths)


def text_mask(text: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    """The drawn text as an "L" mask, cut to its ink, at least 1 x 1 px."""
    left, top, right, bottom = face.getbbox(text)
    mask = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=face)
    return mask
