"""Drawn pages, screens and cards that share a design and differ in content: no copies.

A family is a function (rng) -> draw: it chooses a design, and `draw(rng, photo)` draws one
picture of it with a content of its own. Two pictures of one design have the same letters, lines,
logo and colours, often in the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from iscutils.edits import assets

Rng = np.random.Generator
Draw = Callable[[Rng, Image.Image], Image.Image]
FACES = (
    "DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "STIXGeneral", "cmr10",
    "STIXGeneralBol", "cmss10",
)  # fmt: skip
OTHER_FACES = (3, 5, 7, 10, 12)  # of the kit's Latin faces: upright ones of books and screens
SYLLABLES = [
    "ta",
    "re",
    "mo",
    "lin",
    "ka",
    "der",
    "sou",
    "vi",
    "ne",
    "pro",
    "stu",
    "al",
    "ber",
    "con",
    "fi",
    "gra",
    "hen",
    "jo",
    "lu",
    "ma",
    "nor",
    "op",
    "qui",
    "ran",
]
INKS = ("#111111", "#1d2a44", "#4a1c1c", "#143d2b", "#553377", "#b3261e", "#0b6e8a", "#a15c00")
PAPERS = ("#ffffff", "#ffffff", "#fbf7ec", "#f1f4f8", "#eeeeee")


@lru_cache(maxsize=512)
def font_of(face: int, size: int) -> ImageFont.FreeTypeFont:
    if face >= len(FACES):
        return assets.font("latin", OTHER_FACES[face - len(FACES)], size)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{FACES[face]}.ttf"), size)


@lru_cache(maxsize=1)
def _vocabulary() -> list[str]:
    rng = np.random.default_rng(5)
    return ["".join(rng.choice(SYLLABLES, rng.integers(1, 5))) for _ in range(240)]


def words_of(rng: Rng, count: int) -> list[str]:
    # Some words are frequent, as in any language; numbers stand between them.
    places = np.minimum(rng.exponential(70, count), 239).astype(int)
    return [str(rng.integers(2, 9999)) if rng.random() < 0.04 else _vocabulary()[i] for i in places]


class Sheet:
    """A picture to draw on, with the colours and fonts of its design."""

    def __init__(self, rng: Rng, wide: tuple[float, float] = (0.65, 0.85)):
        self.height = int(rng.integers(700, 1300))
        self.width = int(self.height * rng.uniform(*wide))
        self.paper, self.ink = str(rng.choice(PAPERS)), str(rng.choice(INKS[:4]))
        self.accent = str(rng.choice(INKS[1:]))
        self.margin = int(self.width * rng.uniform(0.04, 0.12))
        self.size = int(rng.integers(15, 30))
        self.face, self.title = rng.integers(0, len(FACES) + len(OTHER_FACES), 2).tolist()

    def clear(self) -> ImageDraw.ImageDraw:
        self.picture = Image.new("RGB", (self.width, self.height), self.paper)
        self.pen = ImageDraw.Draw(self.picture)
        return self.pen

    def line(self, x: float, y: float, text: str, size: float = 1, title: bool = False) -> float:
        """Write a line of text; return its width."""
        font = font_of(self.title if title else self.face, max(8, round(self.size * size)))
        self.pen.text((x, y), text, fill=self.accent if title else self.ink, font=font)
        return font.getlength(text)

    def paragraph(self, rng: Rng, box: Sequence[float], size: float = 1, ragged: float = 0) -> None:
        """Fill a box x0, y0, x1, y1 with lines of words."""
        font = font_of(self.face, max(8, round(self.size * size)))
        y, step = box[1], self.size * size * 1.4
        while y + step <= box[3]:
            room, line = (box[2] - box[0]) * (1 - ragged * rng.random()), []
            while True:
                (word,) = words_of(rng, 1)
                room -= font.getlength(f"{word} ")
                if room < 0:
                    break
                line.append(word)
            self.pen.text((box[0], y), " ".join(line), fill=self.ink, font=font)
            y += step

    def show(self, picture: Image.Image, box: Sequence[float]) -> None:
        """Lay a picture into a box x0, y0, x1, y1, cut to its shape."""
        x0, y0, x1, y1 = (round(v) for v in box)
        self.picture.paste(ImageOps.fit(picture, (max(8, x1 - x0), max(8, y1 - y0))), (x0, y0))

    def emblem(self, number: int, x: float, y: float, side: int) -> None:
        """A logo: an outline with an icon in it."""
        icon = assets.emblem(number, max(8, int(side * 0.6)))
        shape = self.pen.ellipse if number % 2 else self.pen.rectangle
        shape((x, y, x + side, y + side), outline=self.accent, width=max(2, side // 12))
        self.picture.paste(self.accent, (round(x + side * 0.2), round(y + side * 0.2)), icon)


def name_of(rng: Rng, count: int = 2) -> str:
    return " ".join(words_of(rng, count)).title()


def pages(rng: Rng) -> Draw:
    """Pages of one book: a heading, one or two columns of text."""
    sheet, columns, ragged = Sheet(rng), int(rng.integers(1, 3)), float(rng.choice([0, 0.2]))
    top, heading, running = rng.uniform(0.05, 0.16), rng.uniform(1.2, 2), rng.random() < 0.5

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        sheet.clear()
        if not running:
            sheet.line(sheet.margin, sheet.height * top * 0.4, name_of(rng, 3), heading, True)
        width = (sheet.width - 2 * sheet.margin) / columns
        for i in range(columns):
            x = sheet.margin + i * width
            box = (x, sheet.height * top, x + width * 0.94, sheet.height * 0.93)
            sheet.paragraph(rng, box, ragged=ragged)
        sheet.line(sheet.width / 2, sheet.height * 0.95, str(rng.integers(1, 400)), 0.8)
        return sheet.picture

    return draw


def letters(rng: Rng) -> Draw:
    """Letters of one sender: the same head and foot, another text."""
    sheet, icon, name, foot = Sheet(rng), int(rng.integers(10)), name_of(rng), name_of(rng, 7)
    head, size, lines = rng.uniform(0.1, 0.2), rng.uniform(1.2, 2.2), rng.random() < 0.7

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, top, m = sheet.clear(), sheet.height * head, sheet.margin
        sheet.emblem(icon, m, top * 0.2, int(top * 0.6))
        sheet.line(m + top, top * 0.3, name, size, True)
        if lines:
            pen.line((m, top, sheet.width - m, top), fill=sheet.accent, width=3)
        sheet.line(m, sheet.height * 0.95, foot, 0.8, True)
        start, end = top * 1.4, sheet.height * rng.uniform(0.55, 0.92)
        sheet.paragraph(rng, (m, start, m + sheet.width * 0.3, start + sheet.size * 6))
        box = (m, start + sheet.size * 8, sheet.width - m, max(end, start + sheet.size * 14))
        sheet.paragraph(rng, box, ragged=0.15)
        return sheet.picture

    return draw


def forms(rng: Rng) -> Draw:
    """One form filled by different people: labels, boxes and lines are the same."""
    sheet, title, rows = Sheet(rng), name_of(rng, 3), int(rng.integers(9, 20))
    labels, boxes = [name_of(rng, 2) for _ in range(rows)], rng.random(rows) < 0.25
    hand = int(rng.integers(len(FACES) + len(OTHER_FACES)))

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, m = sheet.clear(), sheet.margin
        sheet.line(m, m * 0.7, title, 1.6, True)
        step = (sheet.height - 3 * m) / rows
        for i, (label, boxed) in enumerate(zip(labels, boxes, strict=True)):
            y, x = 2 * m + i * step, m + sheet.width * 0.33
            sheet.line(m, y, label, 0.8)
            if boxed:
                for k in range(4):
                    b = (x + k * step * 1.4, y, x + k * step * 1.4 + step / 2, y + step / 2)
                    pen.rectangle(b, outline=sheet.ink, width=2)
                    if rng.random() < 0.5:
                        pen.line(b, fill="#1a237e", width=4)
                continue
            pen.line((x, y + step * 0.7, sheet.width - m, y + step * 0.7), fill=sheet.accent)
            font = font_of(hand, max(9, min(int(step * 0.6), round(sheet.size * 1.15))))
            text = " ".join(words_of(rng, int(rng.integers(2, 6))))
            while font.getlength(text) > sheet.width - m - x:
                text = text[:-3]
            pen.text((x, y), text, fill="#1a237e", font=font)
        return sheet.picture

    return draw


def chats(rng: Rng) -> Draw:
    """Conversations in one messenger, perhaps with a picture sent."""
    sheet, ground = Sheet(rng, (0.45, 0.6)), str(rng.choice(["#ffffff", "#e8eef4", "#17212b"]))
    bubbles = [str(c) for c in rng.choice(["#dcf8c6", "#e6e6ea", "#cfe4ff", "#ffffff"], 2, False)]
    bar, name, icon = int(rng.integers(50, 110)), name_of(rng), int(rng.integers(10))

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, m = sheet.clear(), sheet.margin
        pen.rectangle((0, 0, sheet.width, sheet.height), fill=ground)
        y = bar * 1.3
        while y < sheet.height - 2.5 * bar:
            own, lines = rng.random() < 0.5, int(rng.integers(1, 5))
            width = sheet.width * rng.uniform(0.35, 0.7)
            x, tall = (sheet.width - m - width if own else m), (lines + 0.5) * sheet.size * 1.4
            pen.rounded_rectangle((x, y, x + width, y + tall), 14, fill=bubbles[own])
            if rng.random() < 0.08:
                tall = width * 0.7
                sheet.show(photo, (x, y, x + width, y + tall))
            else:
                box = (x + 10, y + 5, x + width - 10, y + tall)
                sheet.paragraph(rng, box, ragged=0.2)
            y += tall + sheet.size * 0.7
        pen.rectangle((0, 0, sheet.width, bar), fill=sheet.accent)
        pen.rectangle((0, sheet.height - bar, sheet.width, sheet.height), fill=sheet.paper)
        pen.ellipse((m, bar * 0.2, m + bar * 0.6, bar * 0.8), fill=sheet.paper)
        pen.text((m + bar, bar * 0.3), name, fill="#ffffff", font=font_of(0, bar // 3))
        sheet.emblem(icon, sheet.width - m - bar * 0.7, sheet.height - bar * 0.8, int(bar * 0.6))
        return sheet.picture

    return draw


def receipts(rng: Rng) -> Draw:
    """Receipts of one shop: the same head and foot, other goods and prices."""
    sheet, icon, name = Sheet(rng, (0.4, 0.6)), int(rng.integers(10)), name_of(rng)
    address, thanks = name_of(rng, 4), name_of(rng, 4)
    goods, bars = [name_of(rng, 2) for _ in range(25)], rng.random() < 0.6

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, m, y = sheet.clear(), sheet.margin, sheet.height * 0.15
        sheet.emblem(icon, sheet.width * 0.42, m * 0.4, int(y * 0.5))
        sheet.line(m, y * 0.75, name, 1.4, True)
        sheet.line(m, y, address, 0.9)
        right, y = sheet.width - m - 5 * sheet.size * 0.7, y + 2.5 * sheet.size
        while y < sheet.height * 0.75:
            sheet.line(m, y, f"{rng.integers(1, 9)} x {goods[int(rng.integers(25))]}")
            sheet.line(right, y, f"{rng.uniform(0.5, 99):7.2f}")
            y += sheet.size * 1.5
        pen.line((m, y, sheet.width - m, y), fill=sheet.ink, width=2)
        sheet.line(m, y + sheet.size * 0.5, "TOTAL", 1.5)
        sheet.line(right - sheet.size, y + sheet.size * 0.5, f"{rng.uniform(9, 999):.2f}", 1.5)
        if bars:
            for x in np.arange(m, sheet.width - m, 4):
                if rng.random() < 0.5:
                    pen.rectangle((x, sheet.height * 0.84, x + 3, sheet.height * 0.91), fill="#111")
        sheet.line(m, sheet.height * 0.94, thanks, 0.9)
        return sheet.picture

    return draw
