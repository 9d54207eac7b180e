"""Emoji pictures and fonts that come with AugLy, found as files: importing AugLy takes seconds."""

from __future__ import annotations

import importlib.util
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
    picture = Image.open(files[number % len(files)]) if files else _drawn(number)
    return picture.convert("RGBA").resize((side, side), Image.Resampling.BILINEAR)


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


@lru_cache(maxsize=1024)
def _font_file(script: str, face: int) -> Path | None:
    folder = _folder()
    files = [folder / "fonts" / f"{name}.ttf" for name in FACES[script]] if folder else []
    files = [file for file in files if file.exists()]
    return files[face % len(files)] if files else None


@lru_cache(maxsize=64)
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
