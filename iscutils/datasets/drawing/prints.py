"""Posters, pages of text and charts, as files or photographed."""

from __future__ import annotations

import numpy as np

from iscutils.datasets.drawing import painting as p
from iscutils.datasets.drawing.landscape import picture
from iscutils.datasets.drawing.objects import INK, PAPER
from iscutils.datasets.drawing.textures import Surfaces, mix, near, sample


def poster(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """Big words, shapes and a picture; printed, or hanging on a wall."""
    sheet = _print(rng, height, width, surfaces)
    if rng.random() < 0.5:
        return sheet
    canvas = surfaces.piece(height, width, rng.uniform(0.8, 2)) * rng.uniform(0.5, 1)
    margin = rng.uniform(0.04, 0.2) * min(height, width)
    corners = p.box_points(margin, margin, width - margin, height - margin)
    corners = corners + rng.normal(0, margin * 0.25, (4, 2))
    p.shade(canvas, corners + margin * 0.12, margin * 0.12 + 1, 0.55)
    folds = 0.92 + 0.16 * sample(surfaces.soft, rng, height, width, 1.5)[..., None]
    p.project(canvas, np.clip(sheet * folds, 0, 1), corners)
    return canvas


def _print(rng, height, width, surfaces) -> np.ndarray:
    ground = surfaces.colour(0, 1)
    ink = surfaces.colour(0.8, 1) if ground.mean() < 0.5 else surfaces.colour(0, 0.25)
    if abs(float(ink.mean() - ground.mean())) < 0.3:
        ink = PAPER if ground.mean() < 0.5 else INK
    sheet = np.empty((height, width, 3), np.float32)
    sheet[:] = mix(
        ground, surfaces.colour(), np.linspace(0, rng.uniform(0, 0.6), height)[:, None, None]
    )
    if rng.random() < 0.55:  # a picture, full or inset
        y0, y1 = (0.0, 1.0) if rng.random() < 0.3 else sorted(rng.uniform(0.05, 0.95, 2))
        if (y1 - y0) * height > 40:
            inset = rng.uniform(0, 0.12) * width if y1 < 1 else 0
            corners = p.box_points(inset, y0 * height, width - inset, y1 * height)
            p.project(sheet, picture(surfaces), corners, rng.uniform(0.6, 1))
    for _ in range(int(rng.integers(0, 7))):
        x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.35) * width
        outline = (
            p.ellipse(x, y, size, size),
            p.ellipse(x, y, size, size, rng.uniform(0, 3), int(rng.integers(3, 7))),
            p.shifted(p.turned(p.box_points(-4, -0.15, 4, 0.15) * size, rng.uniform(0, 3)), x, y),
            p.blob(rng, x, y, size, 0.3),
        )[rng.integers(4)]
        p.fill(sheet, outline, surfaces.colour(), rng.uniform(0.5, 1))
    _headline(rng, sheet, ink)
    if rng.random() < 0.3:
        for box in ((0, 0, 1, 0.02), (0, 0.98, 1, 1), (0, 0, 0.02, 1), (0.98, 0, 1, 1)):
            p.fill(sheet, p.box_points(*(np.array(box) * (width, height, width, height))), ink)
    return sheet


def _headline(rng, sheet, ink) -> None:
    """Lines of type: few large ones, then small print."""
    height, width = sheet.shape[:2]
    left, room_ = width * rng.uniform(0.05, 0.12), width * 0.85
    y, face = height * rng.uniform(0.04, 0.4), int(rng.integers(9))
    plate = rng.random() < 0.4
    for _ in range(int(rng.integers(1, 4))):
        size = height * rng.uniform(0.08, 0.22)
        text = p.words(rng, int(rng.integers(1, 3)))
        text = text.upper() if rng.random() < 0.6 else text.title()
        if plate:
            back = p.box_points(left * 0.5, y, width * 0.95, y + size * 1.25)
            p.fill(sheet, back, PAPER if ink.mean() < 0.5 else INK, 0.85)
        p.write(sheet, text, left, y, size, ink, face, room_)
        y += size * 1.3
    for _ in range(int(rng.integers(0, 5))):
        size = height * rng.uniform(0.03, 0.05)
        p.write(sheet, p.words(rng, 6), left, y, size, ink, face + 1, room_)
        y += size * 1.5


def page(rng: np.random.Generator, height: int, width: int, surfaces: Surfaces) -> np.ndarray:
    """A page of text, charts and pictures: a screenshot, or a sheet photographed on a table."""
    dark = rng.random() < 0.15
    sheet = np.empty((height, width, 3), np.float32)
    sheet[:] = near(rng, INK if dark else PAPER, 0.03)
    ink, accent = (PAPER if dark else INK), surfaces.colour(0.2, 0.8)
    face, size = int(rng.integers(9)), max(9, height * rng.uniform(0.028, 0.05))
    if rng.random() < 0.4:
        p.fill(sheet, p.box_points(0, 0, width, height * 0.1), accent)
    p.write(
        sheet,
        p.words(rng, 3).title(),
        width * 0.07,
        height * 0.02,
        size * 1.9,
        ink,
        face,
        width * 0.85,
    )
    columns = 2 if width > height and rng.random() < 0.6 else 1
    for column in range(columns):
        left = width * (0.07 + column * 0.46)
        room_, y = width * (0.86 if columns == 1 else 0.41), height * 0.15
        while y < height * 0.95:
            kind = rng.random()
            if kind < 0.6:
                for _ in range(int(rng.integers(2, 7))):
                    line = p.words(rng, int(room_ / size / 2.6) + 1)
                    p.write(sheet, line, left, y, size, mix(ink, sheet[0, 0], 0.2), face, room_)
                    y += size * 1.35
            elif kind < 0.8:
                tall = height * rng.uniform(0.15, 0.3)
                _chart(rng, sheet, left, y, room_, tall, surfaces)
                y += tall + size
            else:
                tall = height * rng.uniform(0.15, 0.35)
                corners = p.box_points(left, y, left + room_, y + tall)
                p.project(sheet, picture(surfaces), corners)
                y += tall + size
            y += size
    if rng.random() < 0.4:
        return sheet
    canvas = surfaces.piece(height, width, rng.uniform(0.8, 2)) * 0.8
    turn = rng.normal(0, 0.12)
    corners = p.box_points(-0.5, -0.5, 0.5, 0.5) * (width * 0.88, height * 0.88)
    corners = p.shifted(p.turned(corners, turn), width / 2, height / 2) + rng.normal(
        0, 0.02 * width, (4, 2)
    )
    p.shade(canvas, corners + 4, 5, 0.55)
    light = np.linspace(*rng.uniform(0.65, 1.05, 2), width, dtype=np.float32)[None, :, None]
    p.project(canvas, sheet * light, corners)
    return canvas


def _chart(rng, sheet, left, top, wide, tall, surfaces) -> None:
    """Bars, lines or a pie."""
    kind, count = rng.integers(3), int(rng.integers(4, 12))
    base = top + tall
    if kind == 0:
        step, colour = wide / count, surfaces.colour(0.2, 0.8)
        for k, value in enumerate(rng.uniform(0.1, 1, count)):
            x = left + k * step
            p.fill(sheet, p.box_points(x, base - tall * value, x + step * 0.75, base), colour)
    elif kind == 1:
        for _ in range(int(rng.integers(1, 4))):
            walk = np.cumsum(rng.normal(0, 1, 30))
            walk = (walk - walk.min()) / (np.ptp(walk) + 1e-6)
            x = np.linspace(left, left + wide, 30)
            upper = np.stack([x, base - tall * walk], -1)
            p.fill(
                sheet,
                np.concatenate([upper, p.shifted(upper[::-1], 0, 2.5)]),
                surfaces.colour(0, 0.8),
            )
        for axis in ((left, top, left + 1.5, base), (left, base, left + wide, base + 1.5)):
            p.fill(sheet, p.box_points(*axis), INK)
    else:
        shares = np.cumsum(rng.dirichlet(np.full(count // 2 + 1, 2.0))) * 2 * np.pi
        x, y, start = left + wide / 2, top + tall / 2, 0.0
        for end in shares:
            t = np.linspace(start, end, 24)
            rim = np.stack([x + tall / 2 * np.cos(t), y + tall / 2 * np.sin(t)], -1)
            p.fill(sheet, np.concatenate([[(x, y)], rim]), surfaces.colour())
            start = end
