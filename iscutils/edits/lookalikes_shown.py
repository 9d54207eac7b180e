"""Look-alikes that show pictures or drawings: screens, slides, goods, cards, charts and maps."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from iscutils.edits.layers import smooth_field
from iscutils.edits.lookalikes import INKS, Draw, Rng, Sheet, font_of, name_of, words_of


def screens(rng: Rng) -> Draw:
    """Pictures in one viewer or shop app: the same bars, buttons and words around them."""
    sheet, dark = Sheet(rng, (0.45, 0.75)), rng.random() < 0.4
    ground, tone = ("#101418", "#e0e0e0") if dark else (sheet.paper, sheet.ink)
    bar, name, icons = int(rng.integers(40, 100)), name_of(rng), rng.integers(0, 10, 9).tolist()
    labels, top = [name_of(rng, 1) for _ in icons], rng.uniform(0.1, 0.25)
    share, inset = rng.uniform(0.35, 0.7), rng.choice([0, 0.04])
    rows, text = int(rng.integers(1, 3)), rng.random() < 0.5

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, w, h = sheet.clear(), sheet.width, sheet.height
        pen.rectangle((0, 0, w, h), fill=ground)
        pen.rectangle((0, 0, w, bar), fill=sheet.accent)
        pen.text((bar, bar * 0.25), name, fill="#ffffff", font=font_of(sheet.face, bar // 2))
        end = top + share
        sheet.show(photo, (inset * w, top * h, (1 - inset) * w, end * h))
        step = (1 - end - 0.04) * h / rows
        for i, (icon, label) in enumerate(zip(icons, labels, strict=True)):
            row, column = i % rows, i // rows
            x, y = (column + 0.3) * w * rows / 9.5, end * h + step * (row + 0.2)
            side = int(min(step * 0.5, w * rows / 18))
            sheet.emblem(icon, x, y, side)
            if text:
                font = font_of(sheet.face, max(8, side // 3))
                pen.text((x, y + side * 1.1), label, fill=tone, font=font)
        return sheet.picture

    return draw


def slides(rng: Rng) -> Draw:
    """Slides of one talk: the same ground, title bar, logo and foot."""
    sheet, icon, foot = Sheet(rng, (1.3, 1.8)), int(rng.integers(10)), name_of(rng, 6)
    ground = np.clip(245 - 25 * np.abs(smooth_field(rng, 4, 3)), 0, 255).astype(np.uint8)
    bar, photos = rng.uniform(0.1, 0.2), rng.random()

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, w, h, m = sheet.clear(), sheet.width, sheet.height, sheet.margin
        sheet.picture.paste(Image.fromarray(ground).resize((w, h)))
        pen.rectangle((0, 0, w, bar * h), fill=sheet.accent)
        title, size = name_of(rng, int(rng.integers(2, 5))), int(bar * h * 0.45)
        pen.text((m, bar * h * 0.2), title, fill="#ffffff", font=font_of(sheet.title, size))
        end, y = w - m, (bar + 0.1) * h
        if rng.random() < photos:
            end = w * 0.52
            sheet.show(photo, (w * 0.56, y, w - m, h * 0.85))
        for _ in range(int(rng.integers(3, 7))):
            lines = int(rng.integers(1, 3))
            bottom = y + lines * sheet.size * 2.4
            pen.ellipse((m, y + 8, m + 10, y + 18), fill=sheet.accent)
            sheet.paragraph(rng, (m + 25, y, end, min(bottom, h * 0.88)), 1.6, 0.3)
            y = bottom + sheet.size
        sheet.emblem(icon, w - m, h * 0.9, int(h * 0.07))
        sheet.line(m, h * 0.93, foot, 0.9, True)
        return sheet.picture

    return draw


def goods(rng: Rng) -> Draw:
    """Pictures of goods in one shop: the same ground, frame, brand and badge."""
    sheet, icon, brand = Sheet(rng, (0.8, 1.2)), int(rng.integers(10)), name_of(rng)
    width, badge, slogan = int(rng.integers(0, 16)), rng.random() < 0.7, name_of(rng, 4)

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, w, h, m = sheet.clear(), sheet.width, sheet.height, sheet.margin
        shown = photo.convert("RGB")
        across, down = rng.uniform(0.5, 0.75) * w, rng.uniform(0.5, 0.68) * h
        shown = ImageOps.fit(shown, (int(across), int(down)))
        mask = Image.new("L", shown.size)
        outline = _blob(rng) * [shown.width, shown.height]
        ImageDraw.Draw(mask).polygon([tuple(p) for p in outline.tolist()], fill=255)
        sheet.picture.paste(shown, (int((w - across) / 2), int((h - down) * 0.45)), mask)
        if width:
            pen.rectangle((0, 0, w - 1, h - 1), outline=sheet.accent, width=width)
        sheet.emblem(icon, m, m, int(h * 0.1))
        sheet.line(m + h * 0.13, m * 1.2, brand, 1.5, True)
        sheet.line(m, h * 0.93, slogan, 1, True)
        if badge:
            box = (w * 0.75, h * 0.76, w * 0.75 + h * 0.17, h * 0.93)
            pen.ellipse(box, fill=sheet.accent)
            font = font_of(sheet.title, int(h * 0.045))
            pen.text((box[0] + h * 0.03, box[1] + h * 0.055), f"{rng.uniform(1, 99):.2f}",
                     fill="#ffffff", font=font)  # fmt: skip
        return sheet.picture

    return draw


def _blob(rng: Rng) -> np.ndarray:
    """Outline (60, 2) in the unit square of a smooth shape."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 0.42 + sum(
        rng.uniform(-0.06, 0.06) * np.sin(k * angles + rng.uniform(0, 6)) for k in (2, 3, 4)
    )
    return 0.5 + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])


def cards(rng: Rng) -> Draw:
    """Badges of one company or tickets of one event: a small portrait, other names and numbers."""
    sheet, icon, name = Sheet(rng, (1.4, 1.7)), int(rng.integers(10)), name_of(rng, 3)
    fields, bar = [name_of(rng, 1) for _ in range(4)], rng.uniform(0.15, 0.25)
    pattern = np.clip(235 + 12 * smooth_field(rng, 16, 3), 0, 255).astype(np.uint8)

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, w, h, m = sheet.clear(), sheet.width, sheet.height, sheet.margin
        sheet.picture.paste(Image.fromarray(pattern).resize((w, h)))
        pen.rectangle((0, 0, w, bar * h), fill=sheet.accent)
        sheet.emblem(icon, w * 0.85, bar * h + m * 0.3, int(h * 0.12))
        pen.text((m, bar * h * 0.3), name, fill="#ffffff", font=font_of(0, int(bar * h * 0.4)))
        sheet.show(photo, (m, h * (bar + 0.1), m + w * 0.28, h * 0.85))
        for i, field in enumerate(fields):
            x, y = m + w * 0.33, h * (bar + 0.1) + i * h * 0.15
            sheet.line(x, y, field, 0.8, True)
            sheet.line(x, y + sheet.size, name_of(rng, 2), 1.6)
        sheet.line(m, h * 0.9, str(rng.integers(10**9, 10**10)), 1.8)
        return sheet.picture

    return draw


def frames(rng: Rng) -> Draw:
    """Pictures in one ornamental frame, with one signature."""
    sheet, width, name = Sheet(rng, (0.7, 1.4)), rng.uniform(0.06, 0.16), name_of(rng)
    tile = np.clip(128 + 60 * smooth_field(rng, int(rng.integers(8, 30)), 3), 0, 255)
    tile, repeat = tile.astype(np.uint8), int(rng.integers(3, 9))

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        sheet.clear()
        w, h = sheet.width, sheet.height
        pattern = Image.fromarray(np.tile(tile, (repeat, repeat, 1))).resize((w, h))
        sheet.picture.paste(pattern)
        edge = width * min(w, h)
        sheet.show(photo, (edge, edge, w - edge, h - edge))
        sheet.line(edge * 1.3, h - edge - 2 * sheet.size, name, 1.3, True)
        return sheet.picture

    return draw


def charts(rng: Rng) -> Draw:
    """Charts of one report: the same axes, grid, legend and colours, other numbers."""
    sheet, title, kind = Sheet(rng, (1.2, 1.7)), name_of(rng, 4), int(rng.integers(3))
    names, colours = [name_of(rng, 1) for _ in range(4)], rng.choice(INKS[1:], 4, False).tolist()
    count, bars = int(rng.integers(5, 14)), int(rng.integers(1, 4))

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, w, h, m = sheet.clear(), sheet.width, sheet.height, sheet.margin
        sheet.line(m, m * 0.4, title, 1.5, True)
        x0, y0, x1, y1 = m * 2, h * 0.15, w * 0.85, h * 0.88
        for i in range(6):
            y = y1 - i * (y1 - y0) / 5
            pen.line((x0, y, x1, y), fill="#cccccc", width=2)
            sheet.line(m * 0.8, y - sheet.size / 2, str(20 * i), 0.8)
        step = (x1 - x0) / count
        for k in range(bars):
            sheet.line(w * 0.88, y0 + k * sheet.size * 2, names[k], 0.9)
            pen.rectangle((w * 0.86, y0 + k * sheet.size * 2, w * 0.872, y0 + k * sheet.size * 2
                           + sheet.size), fill=colours[k])  # fmt: skip
            values = np.clip(rng.uniform(0.2, 0.8) + 0.25 * rng.normal(size=count), 0.03, 1)
            tops = y1 - values * (y1 - y0)
            xs = x0 + (np.arange(count) + 0.5) * step
            if kind == 0:
                for x, y in zip(x0 + np.arange(count) * step, tops, strict=True):
                    left = x + step * (0.1 + 0.8 * k / bars)
                    pen.rectangle((left, y, left + step * 0.8 / bars, y1), fill=colours[k])
            elif kind == 1:
                pen.line(list(zip(xs, tops, strict=True)), fill=colours[k], width=4)
            else:
                for x, y in zip(xs, tops, strict=True):
                    pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=colours[k])
        for i in range(count):
            sheet.line(x0 + (i + 0.3) * step, y1 + 8, str(2000 + i), 0.7)
        return sheet.picture

    return draw


def maps(rng: Rng) -> Draw:
    """Maps of one atlas: the same colours, lines, letters, legend and frame, other places."""
    sheet, names = Sheet(rng, (0.8, 1.4)), [name_of(rng, 1) for _ in range(5)]
    sea, land, high = ("#b8d8ea", "#eef0d5", "#d9cfa3") if rng.random() < 0.5 else (
        "#ffffff", "#dddddd", "#aaaaaa"
    )  # fmt: skip
    title, cells, grid = name_of(rng, 3), int(rng.integers(4, 9)), int(rng.integers(0, 9))

    def draw(rng: Rng, photo: Image.Image) -> Image.Image:
        pen, w, h = sheet.clear(), sheet.width, sheet.height
        height = cv2.resize(smooth_field(rng, cells), (w, h), interpolation=cv2.INTER_CUBIC)
        for level, colour in ((-9, sea), (0, land), (0.8, high)):
            mask = Image.fromarray(((height > level) * 255).astype(np.uint8))
            sheet.picture.paste(colour, (0, 0), mask)
        for _ in range(7):
            walk = np.cumsum(rng.normal(0, 35, (25, 2)), axis=0) + rng.uniform(0, 1, 2) * [w, h]
            pen.line([tuple(p) for p in walk.tolist()], fill=sheet.accent, width=3)
        for _ in range(14):
            x, y = rng.uniform(0.05, 0.9) * w, rng.uniform(0.05, 0.9) * h
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=sheet.ink)
            sheet.line(x + 6, y - 4, words_of(rng, 1)[0].title(), 0.9)
        for i in range(grid):
            x, y = w * (i + 0.5) / grid, h * (i + 0.5) / grid
            pen.line((x, 0, x, h), fill="#888888")
            pen.line((0, y, w, y), fill="#888888")
        pen.rectangle((0, 0, w - 1, h - 1), outline=sheet.ink, width=10)
        box = (w * 0.7, h * 0.7, w - 20, h - 20)
        pen.rectangle(box, fill=sheet.paper, outline=sheet.ink, width=2)
        sheet.line(box[0] + 8, box[1] + 5, title, 0.9, True)
        for i, name in enumerate(names):
            sheet.line(box[0] + 30, box[1] + (i + 1.5) * sheet.size * 1.3, name, 0.8)
        return sheet.picture

    return draw
